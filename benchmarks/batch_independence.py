"""Measure how much an answer hangs on what else is in its batch, and on the number of threads.

`python benchmarks/batch_independence.py [BUNDLE] [--workload NAME] [--data FILE]` answers every
text alone, all in one call, all with another number of threads, and in calls of 2 to 64 random
texts, and prints the largest difference of a score from the text's alone (a class's, or a number
of a vector of length 1), with the labels that changed, and how many of these are ties: a best score
less than the tolerance above the next. It takes bundles of any task that answers single texts;
without BUNDLE it makes an int8 one of the model that the workload names. Exits 1 over 2e-3 or at a
label that is no tie.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from environments import enter

if __name__ == "__main__":
    enter("lmonnx")

import numpy as np
from materials import Materials
from numpy.typing import NDArray
from workload import names, read_items, read_workload

import lmonnx
from lmonnx.measure.decisions import Decision, decide, decision_of, margins, scores, unit

if TYPE_CHECKING:
    from lmonnx.runtime.pipelines.base import Pipeline

TOLERANCE = 2e-3
SIZES = (2, 8, 32, 64)
Raw = NDArray[np.float32]  # a text's outputs, (rows, C)
Calls = Sequence[Sequence[int]]  # which texts are asked about together


def main() -> None:
    """Compare the ways to batch."""
    arguments = _arguments()
    workload = read_workload(arguments.workload)
    materials = Materials(workload.model)
    bundle = arguments.bundle or materials.bundle("int8")
    items = read_items(workload, materials.checkpoint, arguments.data)
    texts = items.items[: arguments.limit]
    model = lmonnx.load(bundle, threads=arguments.threads)
    other = 1 if arguments.threads > 1 else 2
    manifest = model.bundle.manifest
    print(f"{len(texts)} texts of {items.source}, {manifest.task}, {manifest.precision.value}")
    alone = raw_of(model, texts, [[row] for row in range(len(texts))])
    together = [range(len(texts))]
    found = {
        f"{way}, {arguments.threads} threads": raw_of(model, texts, calls)
        for way, calls in {"all in one call": together, **random_calls(len(texts))}.items()
    }
    retold = lmonnx.load(bundle, threads=other)
    found[f"all in one call, {other} threads"] = raw_of(retold, texts, together)
    decision = decision_of(manifest)
    held = [compare(way, alone, answers, decision) for way, answers in found.items()]
    if not all(held):
        sys.exit(f"an answer hangs on its batch or on the threads by more than {TOLERANCE}")


def random_calls(count: int) -> Mapping[str, Calls]:
    """Return calls of random texts, of each of SIZES."""
    rng = np.random.default_rng(0)
    ways = {}
    for size in SIZES:
        order = [int(row) for row in rng.permutation(count)]
        calls = [order[start : start + size] for start in range(0, count, size)]
        ways[f"random calls of {size}"] = calls
    return ways


def raw_of(model: Pipeline[Any], texts: Sequence[str], calls: Calls) -> list[Raw]:
    """Return each text's outputs when the texts are asked about in these calls."""
    found: dict[int, Raw] = {}
    for rows in calls:
        found.update(zip(rows, model.raw([texts[row] for row in rows]), strict=True))
    return [found[row] for row in range(len(texts))]


def compare(way: str, alone: Sequence[Raw], found: Sequence[Raw], decision: Decision) -> bool:
    """Print how far the answers are from those alone; return whether that is near enough."""
    difference, changed, tied = 0.0, 0, 0
    for ours, theirs in zip(found, alone, strict=True):
        gaps = np.abs(_scores(ours, decision) - _scores(theirs, decision))
        difference = max(difference, float(gaps.max(initial=0.0)))
        moved = (decide(ours, decision) != decide(theirs, decision)).any(axis=1)  # (rows,)
        changed += int(moved.sum())
        tied += int((moved & (margins(theirs, decision) <= TOLERANCE)).sum())
    print(f"{way:34} max |Δscore| {difference:.1e}, labels changed {changed}, of them ties {tied}")
    return difference <= TOLERANCE and changed == tied


def _scores(raw: Raw, decision: Decision) -> NDArray[np.float64]:
    found = scores(raw, decision)
    return unit(found) if decision is Decision.VECTOR else found


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure how answers hang on their batch.")
    parser.add_argument("bundle", nargs="?", type=Path, help="without, one is made")
    parser.add_argument("--workload", choices=names(), default="sst2-ragged")
    parser.add_argument("--data", type=Path, help="a file of lines: text TAB label; or .csv, .json")
    parser.add_argument("--limit", type=int, help="the first texts only")
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


if __name__ == "__main__":
    main()
