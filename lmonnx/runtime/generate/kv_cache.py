"""The keys and values of every layer in one array: a slot a sequence."""

from __future__ import annotations

import contextlib
import math
import mmap

import numpy as np
from numpy.typing import NDArray

from lmonnx.bundle.manifest import CacheSpec
from lmonnx.runtime.generate.selection import Ids

Array = NDArray[np.float32]


class KVCache:
    """(2 L, slots, K, T, D) of float32, which a graph reads and writes in place.

    Memory is taken when a row is first written, so an idle slot costs nothing.
    """

    def __init__(
        self, spec: CacheSpec, slots: int, length: int, *, first_length: int | None = None
    ) -> None:
        """Make room for `slots` sequences of `length` tokens.

        With `first_length` there is room for so many tokens a slot at first, and for more as
        `make_room` asks for them: short rows that lie close together are read faster.
        """
        self.names = [f"{i}.{part}" for i in range(spec.layers) for part in ("key", "value")]
        self.spec, self.slots, self.length = spec, slots, length
        self.token_bytes = token_bytes(spec)
        first = min(length, first_length or length)
        self._shape = (len(self.names), slots, spec.heads, first, spec.head_size)
        self._all = mapped(self._shape)

    @property
    def bytes(self) -> int:
        """The most memory that the cache can take."""
        return self.token_bytes * self.slots * self.length

    def make_room(self, tokens: int, slots: int) -> bool:
        """Have room for so many tokens a slot; return whether arrays seen before are void.

        Args:
            tokens: At most `length`.
            slots: How many of the slots, from the first on, are in use.
        """
        held = self._all.shape[3]
        if tokens <= held:
            return False
        wider = held
        while wider < tokens:
            wider *= 2
        before = self._all
        self._all = mapped((*self._shape[:3], min(wider, self.length), self._shape[4]))
        for part, (old, new) in enumerate(zip(before, self._all, strict=True)):
            new[:slots, :, :held] = old[:slots]
            _give_back(before, part)  # so that both are never there as a whole
        return True

    def clear(self) -> None:
        """Give room that was made back; what the slots hold is void."""
        if self._all.shape != self._shape:
            self._all = mapped(self._shape)

    def view(self, first: int, count: int) -> dict[str, Array]:
        """Return "{layer}.key" and "{layer}.value" of `count` slots: (count, K, T, D), no copy."""
        stop = first + count
        return {name: self._all[i, first:stop] for i, name in enumerate(self.names)}

    def copy(self, source: int, target: int, start: int, stop: int) -> None:
        """Copy the rows of tokens `start` … `stop` - 1 from one slot to another."""
        self._all[:, target, :, start:stop] = self._all[:, source, :, start:stop]

    def spread(self, first: int, count: int, size: int) -> None:
        """Give the first token of `count` slots to `size` slots each, all from `first` on."""
        tokens = np.repeat(self._all[:, first : first + count, :, :1], size, axis=1)
        self._all[:, first : first + count * size, :, :1] = tokens

    def copy_many(self, sources: Ids, targets: Ids, starts: Ids, stops: Ids) -> None:
        """Copy rows of many slots as if at once, each (M,): a slot may be a source and a target."""
        cache, changing = self._all, set(targets.tolist())
        moves = list(
            zip(sources.tolist(), targets.tolist(), starts.tolist(), stops.tolist(), strict=True)
        )
        held = [  # sources that will have changed by the time they are copied
            (target, start, stop, cache[:, source, :, start:stop].copy())
            for source, target, start, stop in moves
            if source in changing
        ]
        for source, target, start, stop in moves:
            if source not in changing:
                cache[:, target, :, start:stop] = cache[:, source, :, start:stop]
        for target, start, stop, rows in held:
            cache[:, target, :, start:stop] = rows


def mapped(shape: tuple[int, ...]) -> Array:
    """Return an array of zeros whose pages the system gives as they are first written.

    Large pages, which numpy asks for, would take a whole slot at its first token.
    """
    count = math.prod(shape)
    memory = mmap.mmap(-1, max(1, count) * np.dtype(np.float32).itemsize)
    if hasattr(mmap, "MADV_NOHUGEPAGE"):
        # A kernel without large pages refuses, and needs no telling.
        with contextlib.suppress(OSError):
            memory.madvise(mmap.MADV_NOHUGEPAGE)
    return np.ndarray(shape, np.float32, memory)


def _give_back(array: Array, part: int) -> None:
    """Give the system the pages of a part of what `mapped` returned; what it held is void."""
    start = -(part * array[0].nbytes // -mmap.PAGESIZE) * mmap.PAGESIZE
    stop = (part + 1) * array[0].nbytes // mmap.PAGESIZE * mmap.PAGESIZE
    if hasattr(mmap, "MADV_REMOVE") and start < stop:
        with contextlib.suppress(OSError):  # it is only earlier than otherwise
            array.base.madvise(mmap.MADV_REMOVE, start, stop - start)  # type: ignore[union-attr]


def token_bytes(spec: CacheSpec) -> int:
    """Return the bytes that one token takes in the cache."""
    return 2 * spec.layers * spec.heads * spec.head_size * np.dtype(np.float32).itemsize
