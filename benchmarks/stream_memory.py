"""Measure whether memory grows while an endless input is answered.

`python benchmarks/stream_memory.py [BUNDLE] [--lines 1000000]` streams made-up lines of 1 to 30
words through `lmonnx.load(BUNDLE).stream(…)`, and prints the resident memory every 5 %, the most of
the warm-up, which is the first 10 %, and how much more it was at any time after. Exits 1 over
50 MB. Where there is no /proc it is the peak so far. Without BUNDLE it takes the bundle of tests,
tests/golden/tiny-bert.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from cold_process import MAXRSS_UNIT
from environments import ROOT, enter

if __name__ == "__main__":
    enter("lmonnx")

import lmonnx

MB = 1_000_000
LIMIT = 50 * MB
STATM = Path("/proc/self/statm")
WARM_UP, STEPS = 2, 20  # of 20 parts
LOOKS = 50  # at the memory, in each part
LONGEST = 30  # words
LETTERS = "aaabcdeeeefghiiklmnnooprssttuvwy"


def main() -> None:
    """Stream the lines; fail where memory grew."""
    arguments = _arguments()
    model = lmonnx.load(arguments.bundle, threads=arguments.threads)
    print(f"{arguments.lines} lines through {arguments.bundle.name}: {resident() / MB:.0f} MB")
    part = max(1, arguments.lines // STEPS)
    look = max(1, part // LOOKS)
    start, most = time.perf_counter(), {True: 0, False: 0}
    for count, _ in enumerate(model.stream(lines(arguments.lines)), 1):
        if count % look and count % part:
            continue
        now = resident()
        warm = count <= WARM_UP * part
        most[warm] = max(most[warm], now)
        if count % part == 0:
            speed = count / (time.perf_counter() - start)
            print(f"{count / arguments.lines:4.0%}  {now / MB:6.0f} MB  {speed:.0f} lines/s")
    grown = most[False] - most[True]
    print(f"most of the warm-up {most[True] / MB:.1f} MB, after it {grown / MB:+.1f} MB")
    if grown > LIMIT:
        sys.exit(f"memory grew by more than {LIMIT / MB:.0f} MB")


def lines(count: int, *, seed: int = 0) -> Iterator[str]:
    """Yield lines of 1 to LONGEST words, short ones the oftener."""
    dice = random.Random(seed)
    words = ["".join(dice.choices(LETTERS, k=dice.randint(1, 9))) for _ in range(5000)]
    for _ in range(count):
        yield " ".join(dice.choices(words, k=round(LONGEST ** dice.random())))


def resident() -> int:
    """Return the bytes that this process has in memory."""
    if STATM.exists():
        return int(STATM.read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * MAXRSS_UNIT


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure whether a stream's memory grows.")
    tiny = ROOT / "tests" / "golden" / "tiny-bert"
    parser.add_argument("bundle", nargs="?", type=Path, default=tiny)
    parser.add_argument("--lines", type=int, default=1_000_000)
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


if __name__ == "__main__":
    main()
