"""A float graph with what was seen in it on text, and the recipe that both give."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from lmonnx.compiler.graph import read_weight
from lmonnx.compiler.quantize.activations import (
    balanced_factors,
    channel_factors,
    expected_error,
)
from lmonnx.compiler.quantize.folding import Factors, Fold, find_folds
from lmonnx.compiler.quantize.forms import Recipe
from lmonnx.compiler.quantize.layers import Layer
from lmonnx.compiler.quantize.moments import Moments
from lmonnx.compiler.quantize.recipes import Plan, find_heads, forms
from lmonnx.compiler.quantize.rounding import Scale
from lmonnx.compiler.quantize.weights import EIGHT_BITS, quantize_columns

_WORTH_IT = 0.8  # of the expected squared errors: a lookup then takes a product more
_POWERS = (1.0, 0.75, 0.5, 0.25)  # of the head's factors, which a table's lookups lose by
_COLUMNS = 8192  # of a table that are tried


@dataclass(frozen=True, slots=True)
class GraphSource:
    """The input bundle's graph, and what was seen in it on calibration text."""

    path: Path
    model: onnx.ModelProto
    layers: tuple[Layer, ...]
    moments: Mapping[str, Moments]

    def matrix(self, layer: Layer) -> NDArray[np.float32]:
        """Return a layer's weights (K, N)."""
        tensor = next(t for t in self.model.graph.initializer if t.name == layer.weight)
        stored: NDArray[np.float32] = read_weight(tensor, self.path.parent)
        return stored.T if layer.rows else stored


def value_sizes(model: onnx.ModelProto, layers: Collection[Layer]) -> dict[str, int]:
    """Return the values that layers read, in their order, and how many channels each has."""
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    return {layer.value: shapes[layer.weight][1 if layer.rows else 0] for layer in layers}


def recipe_of(source: GraphSource, plan: Plan, keep: Collection[str]) -> Recipe:
    """Return what to make of a graph: the forms of its products, their factors and scales.

    Args:
        source: The graph.
        plan: How its products are held.
        keep: Names of layers that stay in float32.
    """
    held = forms(source.model, plan, keep)
    if not plan.smoothed or not source.moments:
        return Recipe(held, source.moments, reuses=plan.reuses)
    factors, scales = Factors(), {}
    folds = find_folds(source.model, source.layers)
    heads = find_heads(source.model, source.layers)
    for value, seen in source.moments.items():
        readers = [layer for layer in source.layers if layer.value == value]
        if not all(layer.name in held and not held[layer.name].block_size for layer in readers):
            continue
        fold = folds.get(value)
        chosen = _smoothing(source, seen, fold, readers) if fold is not None else None
        if fold is not None and chosen is not None:
            factors.add(value, fold, readers, chosen)
            is_head = any(layer.name in heads for layer in readers)
            # A norm's rows are all of one length: they can share a scale.
            if fold.vectors and not (plan.fine and is_head):
                scales[value] = Scale(float((seen.peak / chosen).max()) / EIGHT_BITS)
        elif float(seen.peak.max()) <= plan.steady * seen.typical:
            scales[value] = Scale.over(seen.least, seen.most)
    return Recipe(held, source.moments, factors, scales, plan.reuses)


def _smoothing(
    source: GraphSource, seen: Moments, fold: Fold, readers: Sequence[Layer]
) -> NDArray[np.float32] | None:
    """Return what to divide a value's channels by, (K,), or None where that is not worth it."""
    matrix = np.concatenate([source.matrix(layer) for layer in readers], axis=1)
    if not fold.vectors:
        return channel_factors(seen.peak, [matrix])
    chosen = balanced_factors(seen.peak, seen.importance, matrix)
    return _tied(seen, matrix, chosen) if any(layer.rows for layer in readers) else chosen


def _tied(
    seen: Moments, matrix: NDArray[np.float32], factors: NDArray[np.float32]
) -> NDArray[np.float32] | None:
    """Return the power of a head's factors by which it and the lookups of its table lose least.

    A row of the table has one scale too, and lookups take the factors back: a channel that is small
    by them comes back with an error that is large. What either loses reaches the logits.
    """
    part = matrix[:, :: -(-matrix.shape[1] // _COLUMNS)]
    tried = [np.power(factors, np.float32(power)) for power in _POWERS]
    losses = [_lost(seen, part, each) for each in (np.ones_like(factors), *tried)]
    best = int(np.argmin(losses[1:]))
    return tried[best] if losses[1 + best] < _WORTH_IT * losses[0] else None


def _lost(seen: Moments, matrix: NDArray[np.float32], factors: NDArray[np.float32]) -> float:
    """Return the squared errors of logits and of lookups, each as a share of all, added."""
    integers, scales = quantize_columns(matrix * factors[:, None])
    lookups = integers * scales / factors[:, None] - matrix
    of_logits = expected_error(seen.peak, seen.importance, matrix, factors) / 12
    logits = (matrix * (seen.second @ matrix)).sum()
    return float(of_logits / logits + np.square(lookups).sum() / np.square(matrix).sum())
