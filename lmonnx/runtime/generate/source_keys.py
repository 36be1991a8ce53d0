"""The keys and values of the sources that are decoded together, each held once for its beams."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lmonnx.bundle.manifest import CacheSpec
from lmonnx.runtime.generate.kv_cache import mapped
from lmonnx.runtime.numerics import Floats

# Room for sources of so many times the longest is given up: every key that is there is read.
_SPARE = 1.25


@dataclass(frozen=True, slots=True, eq=False)
class Sources:
    """G sources as the decoder reads them.

    `arrays` are keys and values in turn of each of L layers, (2 L, G, H, S, D), padded on the right
    with anything finite; `lengths` are (G,). Good until sources come or go.
    """

    arrays: Floats
    lengths: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.lengths)


class SourceKeys:
    """Room for sources, which come at the end and go from anywhere.

    `room` is (2 L, most, H, S, D); where S changes, another array takes its place.
    """

    def __init__(self, spec: CacheSpec, count: int) -> None:
        """Hold at most `count` sources."""
        self.most, self._spec = count, spec
        self.clear()

    def clear(self) -> None:
        """Let go of all."""
        self._lengths = np.zeros(self.most, np.int32)
        self.room = self._empty(0)
        self.held = self._part(0, 0)

    @property
    def padded_length(self) -> int:
        """S."""
        return int(self.room.shape[3])

    def since(self, start: int) -> Sources:
        """Return those from a place on."""
        return self._part(start, len(self.held))

    def add(self, arrays: Sequence[Floats], lengths: NDArray[np.int32]) -> None:
        """Take sources in behind the others.

        Args:
            arrays: 2 L of (G, H, S, D), padded on the right.
            lengths: (G,).
        """
        start, stop = len(self.held), len(self.held) + len(lengths)
        self._lengths[start:stop] = lengths
        self._fit(int(self._lengths[:stop].max()), start)
        longest = int(lengths.max())
        for held, new in zip(self.room, arrays, strict=True):
            held[start:stop, :, :longest] = new[:, :, :longest]
            held[start:stop, :, longest:] = 0  # where another's NaN may stand, which no mask hides
        self.held = self._part(0, stop)

    def keep(self, origins: Sequence[int], places: Sequence[int], count: int) -> None:
        """Put some sources in the place of others, and let go of all from `count` on."""
        if len(origins):
            self.room[:, places] = self.room[:, origins]
            self._lengths[list(places)] = self._lengths[list(origins)]
        self.held = self._part(0, count)

    def _fit(self, longest: int, count: int) -> None:
        """Have room for the longest and not much more; the first `count` stay."""
        if longest <= self.padded_length <= longest * _SPARE:
            return
        before, size = self.room, min(longest, self.padded_length)
        self.room = self._empty(longest)
        self.room[:, :count, :, :size] = before[:, :count, :, :size]

    def _empty(self, longest: int) -> Floats:
        spec = self._spec
        return mapped((2 * spec.layers, self.most, spec.heads, longest, spec.head_size))

    def _part(self, start: int, stop: int) -> Sources:
        return Sources(self.room[:, start:stop], self._lengths[start:stop])
