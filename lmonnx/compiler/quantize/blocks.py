"""Float matrices → 4- or 8-bit integers with a scale a block, as MatMulNBits reads them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]

BITS = (4, 8)
BLOCK_SIZES = (32, 64, 128)
_TINY = float(np.finfo(np.float32).tiny)
# Scales that are tried, as shares of the one by which the largest weight takes the longer side of
# the range; below 0 it takes the shorter one.
_SHARES = (1.0, 0.94, 0.88, 0.82, -8 / 7, -1.06, -0.98)
# The same of the one by which all weights from the least to the largest are in the range.
_SPANS = (1.0, 0.94, 0.88, 0.82)
_PART = 1 << 16  # weights searched at once: what is computed of them stays in the cache


@dataclass(frozen=True, slots=True)
class Blocks:
    """A matrix (N, K) as integers (N, blocks, block_size), scales and zero points (N, blocks).

    w ≈ (integer - zero) · scale; past K the integers are the zero point.
    """

    integers: Bytes
    scales: Floats
    zeros: Bytes
    bits: int

    @property
    def is_symmetric(self) -> bool:
        """Say whether every zero point is the middle, so that none need be stored."""
        return bool((self.zeros == middle(self.bits)).all())

    def packed(self) -> Bytes:
        """Return the bytes of MatMulNBits: (N, blocks, block_size · bits / 8), low nibble first."""
        if self.bits == 8:
            return self.integers
        low, high = self.integers[..., 0::2], self.integers[..., 1::2]
        return np.asarray(low | (high << 4), np.uint8)

    def packed_zeros(self) -> Bytes:
        """Return the zero points as MatMulNBits reads them: (N, blocks · bits / 8, rounded up)."""
        if self.bits == 8:
            return self.zeros
        even = np.pad(self.zeros, ((0, 0), (0, self.zeros.shape[1] % 2)))
        return np.asarray(even[:, 0::2] | (even[:, 1::2] << 4), np.uint8)

    def matrix(self, inputs: int) -> Floats:
        """Return the weights that the integers stand for: (N, K)."""
        centred = self.integers.astype(np.float32) - self.zeros[..., None]
        values = centred * self.scales[..., None]
        return values.reshape(len(values), -1)[:, :inputs]


@dataclass(frozen=True, slots=True)
class Grid:
    """What values a block can have: (integer - zero) · scale, zeros (…) and scales (…)."""

    scales: Floats
    zeros: Floats
    bits: int

    def round(self, weights: Floats) -> Floats:
        """Return the nearest integers of weights (…, block_size), less the zero points."""
        rounded = np.rint(weights / self.scales[..., None])
        low = -self.zeros[..., None]
        return np.asarray(np.clip(rounded, low, low + ((1 << self.bits) - 1)), np.float32)


def middle(bits: int) -> int:
    """Return the integer that stands for 0."""
    return int(1 << (bits - 1))


def in_blocks(weights: Floats, block_size: int) -> Floats:
    """Return (N, K) as (N, blocks, block_size), filled up with zeros."""
    rows, inputs = weights.shape
    blocks = -(-inputs // block_size)
    if blocks * block_size == inputs:
        return weights.reshape(rows, blocks, block_size)
    filled = np.zeros((rows, blocks * block_size), np.float32)
    filled[:, :inputs] = weights
    return filled.reshape(rows, blocks, block_size)


def quantize_blocks(weights: Floats, *, bits: int, block_size: int) -> Blocks:
    """Round a matrix to the nearest, on the grids of least squared error.

    Args:
        weights: (N, K).
        bits: 4 or 8.
        block_size: How many weights of a row share a scale.
    """
    rows, inputs = weights.shape
    count = -(-inputs // block_size)
    integers = np.empty((rows, count, block_size), np.uint8)
    scales, zeros = np.empty((rows, count), np.float32), np.empty((rows, count), np.uint8)
    step = max(1, _PART // (count * block_size))
    for start in range(0, rows, step):
        here = slice(start, start + step)
        part = in_blocks(np.ascontiguousarray(weights[here], np.float32), block_size)
        grid = block_grid(part, bits)
        scales[here], zeros[here] = grid.scales, grid.zeros
        integers[here] = grid.round(part) + grid.zeros[..., None]
    return Blocks(integers, scales, zeros, bits)


def block_grid(blocks: Floats, bits: int, importance: Floats | None = None) -> Grid:
    """Return the grid of least squared error of each block, of those that are tried.

    The middle of the range may stand for 0, and the sign of the scale say which side is longer by
    one; or the range reaches from the least weight to the largest. Each scale is refined once by
    least squares. With 8 bits there is nothing to gain: the largest weight sets the scale.

    Args:
        blocks: Weights, (…, block_size).
        bits: 4 or 8.
        importance: Of each weight's error, broadcast to blocks.
    """
    centre, top = np.float32(middle(bits)), np.float32((1 << bits) - 1)
    far = np.take_along_axis(blocks, np.abs(blocks).argmax(axis=-1)[..., None], -1)[..., 0]
    longest = np.where(np.abs(far) < _TINY * 256, np.float32(1), -far / centre)
    best = Grid(longest.astype(np.float32), np.full_like(longest, centre), bits)
    if bits == 8:
        return best
    least, most = np.minimum(blocks.min(axis=-1), 0), np.maximum(blocks.max(axis=-1), 0)
    span = np.where(most - least < _TINY * 256, np.float32(1), (most - least) / top)
    zeros = np.rint(-least / span).astype(np.float32)
    tried = [Grid(longest * np.float32(share), best.zeros, bits) for share in _SHARES]
    tried += [Grid(span * np.float32(share), zeros, bits) for share in _SPANS]
    return _best(blocks, best, tried, importance)


def _best(blocks: Floats, best: Grid, tried: Sequence[Grid], importance: Floats | None) -> Grid:
    """Return of each block the grid, refined, that explains most of it.

    Σ w(b - s·q)² = Σ w·b² - (Σ w·b·q)² / Σ w·q² at the s of least squares.
    """
    weighted = blocks if importance is None else blocks * importance
    scales, zeros, most = best.scales, best.zeros, np.full_like(best.scales, -1)
    for grid in tried:
        rounded = grid.round(blocks)
        match = np.einsum("...k,...k->...", rounded, weighted)
        pulled = rounded if importance is None else rounded * importance
        refined = match / np.maximum(np.einsum("...k,...k->...", rounded, pulled), _TINY)
        gain = match * refined
        better = (gain > most) & (np.abs(refined) > _TINY)
        scales, most = np.where(better, refined, scales), np.where(better, gain, most)
        zeros = np.where(better, grid.zeros, zeros)
    return Grid(np.asarray(scales, np.float32), np.asarray(zeros, np.float32), best.bits)
