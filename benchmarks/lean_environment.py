"""Measure what a user of the runtime alone pays: disk, start time, memory.

`python benchmarks/lean_environment.py [BUNDLE] [--runs 7] [--rivals]` makes an environment of core
and cpu, and prints its installed size (site-packages without pip and setuptools) with the largest
packages; then, of several cold processes, the best and the median time of import + load + first
answer, of the whole process, and the peak memory; then the heavy modules found, of which there must
be none. Without BUNDLE it makes one of the model that sst2-ragged names. Exits 1 over a limit.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cold_process import run_cold
from environments import ENVIRONMENTS, ROOT, install, python_of
from materials import Materials
from workload import read_workload

MB = 1_000_000
LIMITS = {"installed MB": 250.0, "seconds": 0.6, "peak MB": 150.0}
NOT_OURS = ("pip", "setuptools", "_distutils_hack", "distutils-precedence.pth", "pkg_resources")
TEXT = "a gorgeous, witty, seductive movie"


@dataclass(frozen=True, slots=True)
class Cold:
    """What cold processes took: inside, from import to answer; whole, as its parent saw it."""

    inside: list[float]
    whole: list[float]
    peak: float  # MB, the largest
    heavy: list[str]


def main() -> None:
    """Print sizes, times and memory; fail where a limit is passed."""
    arguments = _arguments()
    materials = Materials(read_workload("sst2-ragged").model)
    bundle = arguments.bundle or materials.bundle("int8")
    python = python_of("lean")
    # The environment stays, lmonnx itself changes.
    install(ENVIRONMENTS / "lean", "--force-reinstall", "--no-deps", ".")
    sizes = package_sizes(ENVIRONMENTS / "lean")
    installed = sum(sizes.values()) / MB
    print(f"installed: {installed:.1f} MB without pip; the largest:")
    for name, size in sizes.most_common(8):
        print(f"  {name:24} {size / MB:7.1f} MB")
    ours = [str(python), "benchmarks/cold_answer.py", str(Path(bundle).resolve()), TEXT]
    cold = measure(ours, arguments.runs)
    report("lmonnx", cold)
    print(f"heavy modules in sys.modules: {', '.join(cold.heavy) or 'none'}")
    for title, command in rivals(materials) if arguments.rivals else ():
        report(title, measure(command, max(2, arguments.runs // 2)))
    got = {"installed MB": installed, "seconds": min(cold.inside), "peak MB": cold.peak}
    over = [
        f"{name}: {got[name]:.2f} > {limit}" for name, limit in LIMITS.items() if got[name] > limit
    ]
    if over or cold.heavy:
        sys.exit(f"over the limit: {', '.join(over + cold.heavy)}")


def package_sizes(environment: Path) -> Counter[str]:
    """Return the bytes of each top-level entry of site-packages, without pip and setuptools."""
    sizes: Counter[str] = Counter()
    (packages,) = environment.glob("lib/python*/site-packages")
    for entry in packages.iterdir():
        if not entry.name.startswith(NOT_OURS):
            files = entry.rglob("*") if entry.is_dir() else [entry]
            sizes[entry.name] += sum(file.stat().st_size for file in files if file.is_file())
    return sizes


def measure(command: Sequence[str], runs: int) -> Cold:
    """Run a command of cold_answer.py's kind several times; the first one fills the caches."""
    run_cold(command, cwd=ROOT)
    results = [run_cold(command, cwd=ROOT) for _ in range(runs)]
    said = [json.loads(result.output.splitlines()[-1]) for result in results]
    return Cold(
        inside=[each["seconds"] for each in said],
        whole=[result.seconds for result in results],
        peak=max(result.peak for result in results) / MB,
        heavy=said[0]["heavy"],
    )


def report(title: str, cold: Cold) -> None:
    """Print a line of times and memory."""
    inside, whole = cold.inside, cold.whole
    print(
        f"{title}: import + load + first answer {min(inside):.3f} s best, "
        f"{statistics.median(inside):.3f} s median; whole process {min(whole):.3f} s best, "
        f"{statistics.median(whole):.3f} s median; peak memory {cold.peak:.0f} MB"
    )


def rivals(materials: Materials) -> list[tuple[str, list[str]]]:
    """Return the commands of the other systems for the same checkpoint."""
    graph = Path(materials.graphs()["optimum graph"]).parent
    script = "benchmarks/cold_rival.py"
    checkpoint = str(materials.checkpoint)
    return [
        ("transformers", [str(python_of("transformers")), script, "torch", checkpoint, TEXT]),
        ("optimum", [str(python_of("optimum")), script, "optimum", str(graph), TEXT]),
    ]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure the lean environment.")
    parser.add_argument("bundle", nargs="?", type=Path, help="without, one is made")
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--rivals", action="store_true", help="transformers and optimum too")
    return parser.parse_args()


if __name__ == "__main__":
    main()
