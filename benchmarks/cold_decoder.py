"""Seconds from a cold process's `load` to the first token; what a step costs outside the graph.

`python benchmarks/cold_decoder.py BUNDLE [--prompt 128] [--rounds 5]` starts a process a round and
prints the best: from before `import lmonnx`, from before `load`, and what decoding takes outside of
the graph (wall time of a step less that of the graph's run, median of 200 steps).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

from environments import enter

if __name__ == "__main__":
    enter("lmonnx")

CHILD = """
import sys, time
start = time.perf_counter()
import lmonnx
from lmonnx import SamplingParams
loading = time.perf_counter()
model = lmonnx.load(sys.argv[1], threads=2)
ids = [(i * 37) % 9000 + 100 for i in range(int(sys.argv[2]))]
ids = [i % model.generation.vocabulary for i in ids]
for _ in model.stream(ids, SamplingParams(max_new_tokens=1, ignore_eos=True)):
    first = time.perf_counter()
    break
from lmonnx.runtime import binding
inside, whole = [], []
run = binding.Binding.run
def timed(self):
    at = time.perf_counter()
    run(self)
    inside.append(time.perf_counter() - at)
binding.Binding.run = timed
at = time.perf_counter()
for _ in model.stream(ids[:32], SamplingParams(max_new_tokens=200, ignore_eos=True)):
    now = time.perf_counter()
    whole.append(now - at)
    at = now
outside = sorted(a - b for a, b in zip(whole[1:], inside[1:]))
import json
print(json.dumps([first - start, first - loading, outside[len(outside) // 2]]))
"""


def main() -> None:
    """Print the best of the rounds."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--prompt", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    command = [sys.executable, "-c", CHILD, str(arguments.bundle), str(arguments.prompt)]
    rounds = [
        json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        for _ in range(arguments.rounds)
    ]
    imported, loaded, outside = (min(figures) for figures in zip(*rounds, strict=True))
    print(f"import, load, first token after {arguments.prompt}: {imported:.2f} s")
    print(f"load, first token: {loaded:.2f} s")
    print(f"outside of the graph, a greedy step: {outside * 1000:.2f} ms")


if __name__ == "__main__":
    main()
