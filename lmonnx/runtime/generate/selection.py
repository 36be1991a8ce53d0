"""The highest of a row without sorting the row, which would cost more than a decode step."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from lmonnx.runtime.numerics import Floats

Ids = NDArray[np.int64]
_FEW = 512  # are cheap to sort
_STEPS = 24
# A sum so near to what is wanted may be on either side of it: it is one of float32.
_SLACK = 1e-5


def mask_of(ids: Iterable[int], size: int) -> NDArray[np.bool_]:
    """Return for each id below `size` whether it is among `ids`: (size,)."""
    mask = np.zeros(size, bool)
    mask[[index for index in ids if index < size]] = True
    return mask


def around(values: Floats, weights: Floats | None, wanted: float) -> tuple[Ids, float]:
    """Return the ids around the place where the weights of the highest values reach `wanted`.

    The depth of that place below the highest value is doubled until it is passed, then halved in;
    each step looks at the row once. Values that tie stay together, those of -inf are left out.

    Args:
        values: (V,) float32.
        weights: (V,) float32, none negative; None counts.
        wanted: The sum to reach, no more than that of all weights.

    Returns:
        The ids in order, and the weight of all higher values.
    """
    highest = values.max()
    low, high = np.float32(-np.inf), highest
    most, least, depth = len(values), 0, np.float32(4)  # how many are above low, and above high
    room = None if weights is None else np.empty_like(weights)  # a new array a step costs more
    for _ in range(_STEPS):
        if most - least <= _FEW:
            break
        pivot = highest - depth if low == -np.inf else low / 2 + high / 2
        upper = values > pivot
        count = int(np.count_nonzero(upper))
        reached = count if weights is None else np.multiply(weights, upper, out=room).sum()
        if abs(reached - wanted) < _SLACK or pivot in (low, high):
            break
        if reached > wanted:
            low, most = pivot, count
        else:
            high, least, depth = pivot, count, depth * 2
    higher = values > high
    above = higher.sum() if weights is None else (weights * higher).sum(dtype=np.float64)
    return np.flatnonzero((values > low) & (values <= high)), float(above)


def nth_highest(values: Floats, n: int) -> float:
    """Return the n-th highest of a row (V,), n from 1; -inf where fewer are above that."""
    # A half less, as what is wanted must never be what is reached.
    ids, above = around(values, None, n - 0.5)
    rank = n - 1 - round(above)
    return float(np.sort(values[ids])[::-1][rank]) if rank < len(ids) else -np.inf
