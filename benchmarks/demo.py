"""The main job on the checkpoint in this repository: prints one table, a row a stage.

Exports, optimizes, quantizes, verifies, evaluates and times `models/sentiment-mini` through the
command line, exactly as a user would, and leaves the bundles in build/demo.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
LMONNX = Path(sys.executable).with_name("lmonnx")
CHECKPOINT = ROOT / "models" / "sentiment-mini"
DATA = CHECKPOINT / "data" / "vader.tsv"
GOLDEN = ROOT / "tests" / "golden" / "sentiment-mini.json"
OUT = ROOT / "build" / "demo"
SENTENCES = (
    "a gorgeous, witty and moving film",
    "two hours of my life that I will never get back",
    "The battery died after a week and nobody answers my mails.",
    "not bad at all, in fact rather good!",
    "it arrived on Tuesday 📦",
)
COLUMNS = ("stage", "MB", "accuracy", "95% interval", "max Δ / range", "same label", "texts/s")


def run(*arguments: str | Path, code: int = 0) -> str:
    """Run `lmonnx` and return what it prints; stop the demo where it fails."""
    done = subprocess.run(
        [LMONNX, *map(str, arguments)], stdout=subprocess.PIPE, text=True, check=False
    )
    if done.returncode != code:
        sys.exit(f"lmonnx {arguments[0]} ended with {done.returncode}")
    return done.stdout


def asked(*arguments: str | Path) -> Any:
    """Run `lmonnx … --json` and return the object that it prints."""
    return json.loads(run(*arguments, "--json"))


def make_bundles() -> None:
    """Write build/demo/fp32, opt and int8, each from the one before."""
    for stage, source, target in (
        ("export", CHECKPOINT, "fp32"),
        ("optimize", OUT / "fp32", "opt"),
        ("quantize", OUT / "opt", "int8"),
    ):
        print(f"$ lmonnx {stage} {source.relative_to(ROOT)} -o build/demo/{target}")
        started = time.perf_counter()
        print(run(stage, source, "-o", OUT / target, "--force").rstrip())
        print(f"  {time.perf_counter() - started:.1f} s\n")


def row(stage: str) -> tuple[str, ...]:
    """Return the summary's row of one bundle."""
    bundle = OUT / stage
    parity = asked("verify", bundle, "--golden", GOLDEN)
    score = asked("eval", bundle, DATA)
    speed = asked("bench", bundle, "--rounds", "3")
    size = sum(path.stat().st_size for path in bundle.rglob("*") if path.is_file())
    low, high = score["confidence_interval"]
    return (
        stage,
        f"{size / 1e6:.1f}",
        f"{score['accuracy']:.4f}",
        f"{low:.3f} to {high:.3f}",
        f"{parity['relative']:.1e}",
        f"{parity['agreement']:.1%}",
        f"{speed['texts_per_s']:.0f}",
    )


def print_table(rows: list[tuple[str, ...]]) -> None:
    """Print rows under COLUMNS, each column as wide as its widest cell."""
    cells = [COLUMNS, *rows]
    widths = [max(len(line[i]) for line in cells) for i in range(len(COLUMNS))]
    for line in cells:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)))


def main() -> None:
    """Run the whole job."""
    OUT.mkdir(parents=True, exist_ok=True)
    make_bundles()
    print("$ lmonnx run build/demo/int8 …")
    print(run("run", OUT / "int8", *SENTENCES))
    print(f"{DATA.relative_to(ROOT)}: labels; {GOLDEN.relative_to(ROOT)}: transformers' logits\n")
    print_table([row(stage) for stage in ("fp32", "opt", "int8")])


if __name__ == "__main__":
    main()
