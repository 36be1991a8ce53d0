"""The dense layers that some embedders have after pooling: one file of a bundle → a function."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lmonnx.bundle.manifest import Dense
from lmonnx.errors import BundleError
from lmonnx.runtime.numerics import Floats, identity, sigmoid

_erf = np.frompyfunc(math.erf, 1, 1)


def _relu(values: Floats) -> Floats:
    return np.maximum(values, 0)


def _gelu(values: Floats) -> Floats:
    result: Floats = values / 2 * (1 + _erf(values / math.sqrt(2)).astype(values.dtype))
    return result


ACTIVATIONS: Mapping[str, Callable[[Floats], Floats]] = {
    "identity": identity,
    "tanh": np.tanh,
    "relu": _relu,
    "gelu": _gelu,
    "sigmoid": sigmoid,
}


@dataclass(frozen=True, slots=True)
class Layer:
    """activation(x W + b): `weight` is (inputs + 1, outputs) float32, its last row b."""

    weight: NDArray[np.float32]
    activation: Callable[[Floats], Floats]

    def __call__(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return (N, inputs) → (N, outputs)."""
        return np.asarray(self.activation(vectors @ self.weight[:-1] + self.weight[-1]), np.float32)


def open_layer(path: Path, stated: Dense) -> Layer:
    """Read a layer's file.

    Raises:
        BundleError: The file is no float32 matrix, or the activation is none that is known.
    """
    try:
        weight = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise BundleError(f"{path} is not an array ({error!s:.100}); export it again") from error
    if not isinstance(weight, np.ndarray) or weight.ndim != 2 or weight.dtype != np.float32:
        raise BundleError(f"{path} is not a float32 matrix; export it again")
    if stated.activation not in ACTIVATIONS:
        known = ", ".join(ACTIVATIONS)
        raise BundleError(f"{path}: the activation {stated.activation!r:.40} is none of {known}")
    return Layer(weight, ACTIVATIONS[stated.activation])


def width_after(layers: Sequence[Layer], width: int, where: str) -> int:
    """Return how wide vectors of `width` are after the layers.

    Raises:
        BundleError: A layer takes vectors of another width.
    """
    for layer in layers:
        if len(layer.weight) != width + 1:
            raise BundleError(
                f"{where}: a dense layer takes vectors of {len(layer.weight) - 1}, is given "
                f"{width}; export it again"
            )
        width = layer.weight.shape[1]
    return width
