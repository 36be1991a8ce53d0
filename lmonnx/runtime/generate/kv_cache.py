"""The keys and values of every layer, in one array each: a slot a sequence."""

from __future__ import annotations

import contextlib
import math
import mmap

import numpy as np
from numpy.typing import NDArray

from lmonnx.bundle.manifest import CacheSpec

Array = NDArray[np.float32]
Rows = list[Array]  # some tokens' keys and values, every layer's


class KVCache:
    """2 L arrays (slots, K, T, D) of float32, which a graph reads and writes in place.

    Memory is taken when a row is first written, so an idle slot costs nothing.
    """

    def __init__(self, spec: CacheSpec, slots: int, length: int) -> None:
        shape = (slots, spec.heads, length, spec.head_size)
        self._arrays = {
            f"{layer}.{part}": _mapped(shape)
            for layer in range(spec.layers)
            for part in ("key", "value")
        }
        self.slots, self.length = slots, length

    @property
    def bytes(self) -> int:
        """The most memory that the cache can take."""
        return sum(array.nbytes for array in self._arrays.values())

    def view(self, first: int, count: int) -> dict[str, Array]:
        """Return "{layer}.key" and "{layer}.value" of `count` slots: (count, K, T, D), no copy."""
        return {name: array[first : first + count] for name, array in self._arrays.items()}

    def copy(self, source: int, target: int, start: int, stop: int) -> None:
        """Copy the rows of tokens `start` … `stop` - 1 from one slot to another."""
        for array in self._arrays.values():
            array[target, :, start:stop] = array[source, :, start:stop]

    def read(self, slot: int, start: int, stop: int) -> Rows:
        """Return a copy of some rows of a slot: (K, stop - start, D) each."""
        return [array[slot, :, start:stop].copy() for array in self._arrays.values()]

    def write(self, slot: int, start: int, rows: Rows) -> None:
        """Put rows that `read` gave into a slot."""
        for array, some in zip(self._arrays.values(), rows, strict=True):
            array[slot, :, start : start + some.shape[1]] = some


def _mapped(shape: tuple[int, ...]) -> Array:
    """Return an array of zeros whose pages the system gives as they are first written.

    Large pages, which numpy asks for, would take a whole slot at its first token.
    """
    count = math.prod(shape)
    memory = mmap.mmap(-1, count * np.dtype(np.float32).itemsize)
    if hasattr(mmap, "MADV_NOHUGEPAGE"):
        # A kernel without large pages refuses, and needs no telling.
        with contextlib.suppress(OSError):
            memory.madvise(mmap.MADV_NOHUGEPAGE)
    return np.frombuffer(memory, np.float32, count).reshape(shape)


def token_bytes(spec: CacheSpec) -> int:
    """Return the bytes that one token takes in the cache."""
    return 2 * spec.layers * spec.heads * spec.head_size * np.dtype(np.float32).itemsize
