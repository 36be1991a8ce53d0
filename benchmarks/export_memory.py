"""Measure the peak memory of `lmonnx export` on a BERT-base of random weights.

`python benchmarks/export_memory.py` prints, a line a kind of file, the peak memory of a fresh
process, its ratio to the float32 weights, and the limit: 1.3 × those weights + 300 MB. Exits 1 over
it.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from cold_process import run_cold
from environments import ROOT, enter, python_of

if __name__ == "__main__":
    enter("lmonnx")  # which has numpy

from materials import CACHE, run_in
from random_bert import float32_bytes

MB = 1_000_000
FACTOR, CONSTANT = 1.3, 300 * MB

# Data type and file → the environment that can write it.
KINDS = {
    ("float32", "safetensors"): "lmonnx",
    ("float16", "safetensors"): "lmonnx",
    ("float32", "bin"): "transformers",
    ("float16", "bin"): "transformers",
}


def main() -> None:
    """Export every kind, print its peak."""
    weights = float32_bytes()
    limit = FACTOR * weights + CONSTANT
    print(f"float32 weights {weights / MB:.0f} MB, limit {limit / MB:.0f} MB")
    peaks = {kind: peak_of(*kind) for kind in KINDS}
    for (dtype, file), peak in peaks.items():
        verdict = "within" if peak <= limit else "OVER"
        print(
            f"{dtype:8} {file:12} peak {peak / MB:5.0f} MB = {peak / weights:.2f} × the weights, "
            f"{verdict} the limit"
        )
    if max(peaks.values()) > limit:
        sys.exit(1)


def peak_of(dtype: str, file: str) -> int:
    """Return the peak bytes of exporting a checkpoint of this kind."""
    checkpoint = CACHE / "export-memory" / f"{dtype}-{file}"
    if not (checkpoint / "config.json").is_file():
        options = ["--dtype", dtype, "--file", file]
        run_in(KINDS[dtype, file], "benchmarks/random_bert.py", str(checkpoint), *options)
    bundle = CACHE / "export-memory" / "bundle"
    shutil.rmtree(bundle, ignore_errors=True)
    try:
        return run_cold(_export(checkpoint, bundle), cwd=ROOT).peak
    finally:
        shutil.rmtree(bundle, ignore_errors=True)


def _export(checkpoint: Path, bundle: Path) -> list[str]:
    python = str(python_of("lmonnx"))
    return [python, "-m", "lmonnx", "export", str(checkpoint), "-o", str(bundle), "--no-verify"]


if __name__ == "__main__":
    main()
