"""Measure how much an answer hangs on what else is in its batch.

`python benchmarks/batch_independence.py [BUNDLE] [--data TSV]` answers every text alone, all in one
call, and in calls of 2 to 64 random texts, and prints the largest difference of a score from the
text's alone, with the labels that changed, and how many of these are ties: a best score less than
the tolerance above the next. Without BUNDLE it makes an int8 one of the model that sst2-ragged
names. Exits 1 over 2e-3 or at a label that is no tie.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from environments import enter

if __name__ == "__main__":
    enter("lmonnx")

import numpy as np
from materials import Materials
from numpy.typing import NDArray
from workload import locate, read_texts, read_workload

import lmonnx

if TYPE_CHECKING:
    from lmonnx import TextClassifier

TOLERANCE = 2e-3
SIZES = (2, 8, 32, 64)
Scores = NDArray[np.float64]


def main() -> None:
    """Compare the ways to batch."""
    arguments = _arguments()
    workload = read_workload("sst2-ragged")
    materials = Materials(workload)
    bundle = arguments.bundle or materials.bundle("int8")
    data = arguments.data or locate(workload.data)
    texts = read_texts(data, materials.checkpoint).items
    classify = lmonnx.load(bundle, threads=arguments.threads)
    alone = scores_of(classify, texts, [[row] for row in range(len(texts))])
    print(f"{len(texts)} texts of {data.name}, {classify.bundle.manifest.precision.value}")
    ways = {"all in one call": [list(range(len(texts)))]}
    rng = np.random.default_rng(0)
    for size in SIZES:
        order = [int(row) for row in rng.permutation(len(texts))]
        calls = [order[start : start + size] for start in range(0, len(order), size)]
        ways[f"random calls of {size}"] = calls
    held = [compare(way, alone, scores_of(classify, texts, calls)) for way, calls in ways.items()]
    if not all(held):
        sys.exit(f"an answer hangs on its batch by more than {TOLERANCE}")


def scores_of(
    classify: TextClassifier, texts: Sequence[str], calls: Sequence[Sequence[int]]
) -> Scores:
    """Return the scores, (N, C), when the texts are asked about in these calls."""
    scores = np.zeros((len(texts), len(classify.head.labels)))
    for rows in calls:
        answers = classify.scores([texts[row] for row in rows])
        scores[list(rows)] = [row for row, _ in answers]
    return scores


def compare(way: str, alone: Scores, scores: Scores) -> bool:
    """Print how far `scores` are from those alone; return whether that is near enough."""
    difference = float(np.abs(scores - alone).max())
    changed = scores.argmax(axis=1) != alone.argmax(axis=1)
    best = np.sort(alone, axis=1)[:, -2:]
    tied = changed & (best[:, 1] - best[:, 0] <= TOLERANCE)
    print(
        f"{way:22} max |Δscore| {difference:.1e}, labels changed {changed.sum()}, "
        f"of them ties {tied.sum()}"
    )
    return difference <= TOLERANCE and not (changed & ~tied).any()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure how answers hang on their batch.")
    parser.add_argument("bundle", nargs="?", type=Path, help="without, one is made")
    parser.add_argument("--data", type=Path, help="a file of lines: text TAB label")
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


if __name__ == "__main__":
    main()
