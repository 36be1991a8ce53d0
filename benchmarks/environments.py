"""Make the environments that the benchmarks run in: one venv a system, under build/bench-env.

`python benchmarks/environments.py [NAME …]` makes those named, or all, and prints their folders.
An environment that was made from the same requirements is used again.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
REQUIREMENTS = ROOT / "benchmarks" / "requirements"
ENVIRONMENTS = ROOT / "build" / "bench-env"
STAMP = "requirements.txt"  # what an environment was made from, kept inside it


def names() -> list[str]:
    """Return every environment that has a requirement file."""
    return sorted(path.stem for path in REQUIREMENTS.glob("*.txt"))


def python_of(name: str) -> Path:
    """Return the python of an environment, made first where it is not there."""
    folder = ENVIRONMENTS / name
    wanted = (REQUIREMENTS / f"{name}.txt").read_text(encoding="utf-8")
    stamp = folder / STAMP
    if not (stamp.is_file() and stamp.read_text(encoding="utf-8") == wanted):
        print(f"making {folder.relative_to(ROOT)} …", file=sys.stderr)
        venv.create(folder, with_pip=True, clear=True)
        install(folder, "-r", str(REQUIREMENTS / f"{name}.txt"))
        stamp.write_text(wanted, encoding="utf-8")
    return folder / "bin" / "python"


def install(folder: Path, *arguments: str) -> None:
    """Run pip in an environment; paths in requirements are relative to the repository."""
    command = [str(folder / "bin" / "python"), "-m", "pip", "install", "-qq"]
    subprocess.run([*command, "--disable-pip-version-check", *arguments], check=True, cwd=ROOT)


def enter(name: str) -> None:
    """Go on in an environment: run this very command again with its python, unless it is that."""
    if Path(sys.prefix) != ENVIRONMENTS / name:
        python = str(python_of(name))
        os.execv(python, [python, *sys.argv])


def main() -> None:
    """Make the environments that the command line names."""
    parser = argparse.ArgumentParser(description="Make the environments of the benchmarks.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(names())}")
    for name in parser.parse_args().names or names():
        print(python_of(name).parent.parent.relative_to(ROOT))


if __name__ == "__main__":
    main()
