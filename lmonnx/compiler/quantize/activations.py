"""What is done to activations before they are rounded, so that a row's range is well used.

A row has one scale, which its largest value sets. Two things make that value too large for the
others: channels that are always large, and a range of which one side is empty.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lmonnx.compiler.quantize.calibration import Seen

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


def is_one_sided(seen: Seen) -> bool:
    """Say whether a value is an activation function's, with next to nothing below 0."""
    return -LOWEST <= seen.least <= 0 and float(seen.peak.max()) > _PEAK
