"""Rounding in which each input's error is made up for by the inputs still to come."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lmonnx.compiler.quantize.blocks import Blocks, Grid, block_grid
from lmonnx.compiler.quantize.weights import SEVEN_BITS, Columns, column_scales

Floats = NDArray[np.float32]
_AT_ONCE = 64  # inputs whose errors are passed on to all later ones in one product
DAMP = 0.01  # of the mean second moment: what calibration text never showed must not run wild


def round_blocks(weights: Floats, factor: Floats, *, bits: int, block_size: int) -> Blocks:
    """Round a matrix to blocks so that its outputs are off by little, not its weights.

    Args:
        weights: (K, N).
        factor: Of its input, as `inverse_factor` gives it, (K, K).
        bits: 4 or 8.
        block_size: How many weights of an output share a scale.

    Source:
        Frantar et al., "GPTQ" (arXiv:2210.17323), algorithm 1. Scales are chosen as a block is
        reached, by the errors that are left after those to come make up for them.
    """
    inputs, outputs = weights.shape
    count = -(-inputs // block_size)
    left = np.array(weights, np.float32)
    integers = np.empty((outputs, count, block_size), np.uint8)
    scales, zeros = np.empty((outputs, count), np.float32), np.empty((outputs, count), np.uint8)
    importance = (1 / np.square(np.diag(factor))).astype(np.float32)
    for block in range(count):
        start, stop = block * block_size, min((block + 1) * block_size, inputs)
        part = np.ascontiguousarray(left[start:stop].T)
        grid = block_grid(part, bits, importance[start:stop])
        scales[:, block], zeros[:, block] = grid.scales, grid.zeros
        rounded = _pass_on(left, factor, start, stop, grid)
        integers[:, block] = grid.zeros[:, None]
        integers[:, block, : stop - start] = rounded.T + grid.zeros[:, None]
    return Blocks(integers, scales, zeros, bits)


def round_columns(weights: Floats, factor: Floats) -> Columns:
    """Round a matrix to 7-bit integers of one scale a column, as `round_blocks` does to blocks.

    Args:
        weights: (K, N).
        factor: Of its input, as `inverse_factor` gives it, (K, K).

    Returns:
        Integers from -63 to 64, (K, N), and scales (N,).
    """
    left, scales = np.array(weights, np.float32), column_scales(weights)
    grid = Grid(scales, np.full_like(scales, SEVEN_BITS), bits=7)
    integers = np.empty(left.shape, np.int8)
    for start in range(0, len(left), _AT_ONCE):
        stop = min(start + _AT_ONCE, len(left))
        integers[start:stop] = _pass_on(left, factor, start, stop, grid)
    return integers, scales


def _pass_on(left: Floats, factor: Floats, start: int, stop: int, grid: Grid) -> Floats:
    """Round inputs start … stop of what is left of a matrix; return the integers, (inputs, N)."""
    part = left[start:stop]
    errors, integers = np.empty_like(part), np.empty_like(part)
    for row in range(stop - start):
        own = factor[start + row, start:stop]
        integers[row] = grid.round(part[row][:, None])[:, 0]
        errors[row] = (part[row] - integers[row] * grid.scales) / own[row]
        part[row + 1 :] -= own[row + 1 :, None] * errors[row]
    left[stop:] -= factor[start:stop, stop:].T @ errors
    return integers


def inverse_factor(second: Floats, damp: float = DAMP) -> Floats:
    """Return the upper triangular U with UᵀU = (E[x·xᵀ] + λI)⁻¹: (K, K) → (K, K).

    λ is `damp` times the mean second moment.
    """
    damped = np.array(second, np.float64)
    mean = float(np.diag(damped).mean()) or 1.0
    damped[np.diag_indices_from(damped)] += damp * mean
    # Reversed, the Cholesky factor is upper: H = R·Rᵀ, so H⁻¹ = R⁻ᵀ·R⁻¹ and U = R⁻¹.
    upper = np.linalg.cholesky(damped[::-1, ::-1])[::-1, ::-1]
    inverse = np.linalg.solve(upper, np.eye(len(upper)))
    return np.ascontiguousarray(np.triu(inverse), np.float32)
