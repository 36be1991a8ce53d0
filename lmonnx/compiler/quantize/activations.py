"""What is done to activations before they are rounded, so that a row's range is well used.

A row has one scale, which its largest value sets. Two things make that value too large for the
others: channels that are always large, and a range of which one side is empty.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lmonnx.compiler.quantize.calibration import Seen
from lmonnx.compiler.quantize.weights import EIGHT_BITS, SEVEN_BITS

Floats = NDArray[np.float32]

# What makes such outliers: a norm's weight, the same for every text.
NORMS = frozenset(
    {
        "LayerNormalization",
        "SkipLayerNormalization",
        "SimplifiedLayerNormalization",
        "SkipSimplifiedLayerNormalization",
    }
)
# No GELU is below this (the one by tanh is -0.17004 at its lowest), no ReLU below 0.
LOWEST = 0.1701
_PEAK = 8 * LOWEST  # below it the empty side is no loss, and may not be empty on other text
_NARROW = 1e-5
_EXPONENTS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


def channel_factors(peak: Floats, matrices: Sequence[Floats]) -> Floats:
    """Return what channels are divided by, and weights multiplied: (K,), geometric mean 1.

    Factors are √(max|x| / max|w|) of each channel, so both are rounded alike well.

    Args:
        peak: The largest magnitude of each channel, (K,).
        matrices: (K, N) each, all that it is multiplied with.

    Source:
        Xiao et al., "SmoothQuant" (arXiv:2211.10438), equation 4 with α = 0.5.
    """
    weights = np.max([np.abs(matrix).max(axis=1) for matrix in matrices], axis=0)
    ratio = np.maximum(peak, _NARROW) / np.maximum(weights, _NARROW)
    factors: Floats = np.sqrt(ratio / np.exp(np.log(ratio).mean())).astype(np.float32)
    return factors


def balanced_factors(peak: Floats, importance: Floats, matrix: Floats) -> Floats:
    """Return the factors with which a value of one scale, and weights of one a column, lose least.

    They are max|x|^a / rms(w)^(1 - a) of each channel, for the exponent a of least expected error
    of x·W, geometric mean 1: (K,). With x / f = x' and f·W = W' the error of each rounding is
    uniform: E‖e‖² = s²/12 · ‖W'‖² + Σₙ sₙ²/12 · E‖x'‖², s and sₙ the scales of x' and of W' 's
    columns.

    Args:
        peak: The largest magnitude of each channel, (K,).
        importance: E[x²] of each, (K,).
        matrix: (K, N), all that it is multiplied with.
    """
    spread = np.sqrt(np.square(matrix).mean(axis=1))
    found = [_between(peak, spread, exponent) for exponent in _EXPONENTS]
    return min(found, key=lambda each: expected_error(peak, importance, matrix, each))


def _between(peak: Floats, spread: Floats, exponent: float) -> Floats:
    """Return peak^a / spread^(1 - a), geometric mean 1."""
    logs = exponent * np.log(np.maximum(peak, _NARROW))
    logs -= (1 - exponent) * np.log(np.maximum(spread, _NARROW))
    return np.asarray(np.exp(logs - logs.mean()), np.float32)


def expected_error(peak: Floats, importance: Floats, matrix: Floats, factors: Floats) -> float:
    """Return 12 times the expected squared error of all outputs of a row, as above."""
    weights = matrix * factors[:, None]
    scale = (peak / factors).max() / EIGHT_BITS
    scales = np.abs(weights).max(axis=0) / SEVEN_BITS
    of_values = np.square(scale) * np.square(weights).sum()
    of_weights = np.square(scales).sum() * (importance / np.square(factors)).sum()
    return float(of_values + of_weights)


def is_one_sided(seen: Seen) -> bool:
    """Say whether a value is an activation function's, with next to nothing below 0."""
    return -LOWEST <= seen.least <= 0 and float(seen.peak.max()) > _PEAK
