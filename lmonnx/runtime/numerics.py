"""Arrays to arrays, in numpy: what stands between logits and scores."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lmonnx.bundle.manifest import Activation

Floats = NDArray[np.floating[Any]]


def softmax(logits: Floats) -> Floats:
    """Return e^x / Σ e^x over the last axis, shifted by the row's maximum so nothing overflows."""
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    result: Floats = shifted / shifted.sum(axis=-1, keepdims=True)
    return result


def sigmoid(logits: Floats) -> Floats:
    """Return 1 / (1 + e^-x), written with e^-|x| so nothing overflows."""
    small = np.exp(-np.abs(logits))
    result: Floats = np.where(logits >= 0, 1 / (1 + small), small / (1 + small))
    return result


def identity(logits: Floats) -> Floats:
    """Return the logits as they are."""
    return logits


ACTIVATIONS: Mapping[Activation, Callable[[Floats], Floats]] = {
    Activation.SOFTMAX: softmax,
    Activation.SIGMOID: sigmoid,
    Activation.NONE: identity,
}
