"""Print how many GB/s this machine reads of memory that no cache holds: `bandwidth.py [THREADS]`.

The best of 10 rounds in which each of so many threads looks for the largest of 2 × 128 MiB.
"""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter

from environments import enter


def read_bandwidth(threads: int) -> float:
    """Return the bytes a second that so many threads read together."""
    import numpy as np

    arrays = [np.ones(2**25, np.float32) for _ in range(2 * threads)]
    best = 0.0
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(10):
            start = perf_counter()
            list(pool.map(np.max, arrays))
            best = max(best, sum(array.nbytes for array in arrays) / (perf_counter() - start))
    return best


if __name__ == "__main__":
    enter("lmonnx")
    print(f"{read_bandwidth(int((*sys.argv, 2)[1])) / 1e9:.1f}")
