"""Float matrices → integers and scales: what is rounded how, and nothing of graphs."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# u8 × s8 products are added in pairs as int16 on x86 without VNNI: 2 · 255 · 64 < 2¹⁵ holds.
SEVEN_BITS = 63
EIGHT_BITS = 127  # for tables that are looked up, never multiplied as integers

Floats = NDArray[np.float32]
Columns = tuple[NDArray[np.int8], Floats]  # integers (K, N), scales (N,)


def quantize_columns(weights: Floats, limit: int = SEVEN_BITS) -> Columns:
    """Round a matrix with one symmetric scale a column.

    Args:
        weights: (K, N).
        limit: The largest integer; the smallest is its negative.

    Returns:
        Integers (K, N) and scales (N,), so that integers × scales ≈ weights.
    """
    scales = column_scales(weights, limit)
    return _round(weights, scales, limit), scales


def column_scales(weights: Floats, limit: int = SEVEN_BITS) -> Floats:
    """Return the scale of each column by which its largest weight is ±limit: (K, N) → (N,)."""
    scales: Floats = _scales(weights, limit, axis=0)[0]
    return scales


def quantize_rows(table: Floats) -> tuple[NDArray[np.int8], Floats]:
    """Round an embedding table with one scale a row: (V, E) → integers (V, E), scales (V, 1)."""
    scales = _scales(table, EIGHT_BITS, axis=1)
    return _round(table, scales, EIGHT_BITS), scales


def _scales(weights: Floats, limit: int, *, axis: int) -> Floats:
    largest = np.abs(weights).max(axis=axis, keepdims=True) / np.float32(limit)
    # A subnormal scale has no digits left to be exact with.
    least = np.maximum(largest, np.finfo(np.float32).tiny)
    return np.where(largest > 0, least, np.float32(1)).astype(np.float32)


def _round(weights: Floats, scales: Floats, limit: int) -> NDArray[np.int8]:
    rounded: NDArray[np.int8] = np.clip(np.rint(weights / scales), -limit, limit).astype(np.int8)
    return rounded
