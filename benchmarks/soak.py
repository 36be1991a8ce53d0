"""Send random requests to one decoder from several threads, and watch its memory.

`python benchmarks/soak.py [BUNDLE] [--requests 2000] [--threads 6]` sends prompts of all kinds, of
which some are cancelled and some wrong, prints the resident memory every 5 % (what is free already
is given back first), and compares every answer with the one of a request that runs alone. Exits 1
where an answer differs, or where the memory after the first 500 requests grows by more than 5 %.
Without BUNDLE it takes the decoder of tests, tests/unit/runtime/generate/tiny-decoder. Of a bundle
of integers no request drafts: verified drafts may choose otherwise at near-ties (decision 11).
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import gc
import hashlib
import sys
import time
from pathlib import Path
from typing import Any

from environments import ROOT, enter

if __name__ == "__main__":
    enter("lmonnx")
sys.path.insert(0, str(ROOT))

from stream_memory import MB, resident

import lmonnx
from lmonnx.bundle.manifest import Precision
from tests.unit.runtime.generate import random_requests

TINY = ROOT / "tests" / "unit" / "runtime" / "generate" / "tiny-decoder"
WARM_UP, LIMIT = 500, 0.05


def main() -> None:
    """Send the requests; fail where an answer differs or memory grows."""
    arguments = _arguments()
    options = {"threads": arguments.model_threads, "context": arguments.context}
    model = lmonnx.load(arguments.bundle, slots=5, **options)
    asked = random_requests.requests(arguments.requests, model.context, seed=arguments.seed)
    if model.bundle.manifest.precision is not Precision.FLOAT32:
        for request in asked:
            request.options.pop("prompt_lookup", None)
    warm, last, step = 0, 0, max(1, len(asked) // 20)
    start = time.perf_counter()

    def look(count: int) -> None:
        nonlocal warm, last
        if count % step and count != min(WARM_UP, len(asked)):
            return
        tidy()
        last = resident()
        warm = last if count <= WARM_UP else warm
        seconds = time.perf_counter() - start
        print(f"{count:6} requests  {last / MB:7.1f} MB  {count / seconds:6.1f} a second")

    found = random_requests.run(model, asked, threads=arguments.threads, done=look, keep=digest)
    model.close()
    print(f"memory after {WARM_UP} requests {warm / MB:.1f} MB, at the end {last / MB:.1f} MB")
    with lmonnx.load(arguments.bundle, slots=4, **options) as one:
        alone = [digest(random_requests.answer(one, request)) for request in asked]
    differ = random_requests.differences(asked, found, alone)
    refused = sum(answer == random_requests.REFUSED for answer in found)
    print(f"{len(asked)} answers, {refused} of them refusals; {len(differ)} differ from solo runs")
    for place in differ[:5]:
        print(f"  {asked[place]}")
    if differ or last > warm * (1 + LIMIT):
        sys.exit("answers differ, or memory grew")


def tidy() -> None:
    """Give back what is free already: what stays is what somebody holds."""
    gc.collect()
    if sys.platform == "linux":
        with contextlib.suppress(AttributeError, OSError):  # not every libc can
            ctypes.CDLL(None).malloc_trim(0)


def digest(answer: Any) -> str | bytes:
    """Return what tells answers apart: 2,000 whole ones would be memory that grows."""
    refused = answer == random_requests.REFUSED
    return answer if refused else hashlib.sha256(repr(answer).encode()).digest()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Send random requests to one decoder.")
    parser.add_argument("bundle", nargs="?", type=Path, default=TINY)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--threads", type=int, default=6, help="that send requests")
    parser.add_argument("--model-threads", type=int, default=2)
    parser.add_argument("--context", type=int, default=160)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


if __name__ == "__main__":
    main()
