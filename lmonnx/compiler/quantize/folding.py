"""Factors a channel that cost nothing at run time: what makes a value is divided by them.

Where a value comes from a norm, the norm's weight is divided; where it is act(gate) · up, the
columns of up are. The rows of the matrices that read it are multiplied, so the function stays.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from lmonnx.compiler.quantize.layers import Layer, is_lookup
from lmonnx.compiler.quantize.writer import readers_of

Floats = NDArray[np.float32]
_NORMS = frozenset({"LayerNormalization", "SimplifiedLayerNormalization"})


@dataclass(frozen=True, slots=True)
class Fold:
    """Where the factors of a value can go: constant `vectors`, or columns of a product.

    `start` is the first of those columns in the product's matrix.
    """

    vectors: tuple[str, ...] = ()
    matrix: str | None = None
    start: int = 0


@dataclass(slots=True)
class Factors:
    """What to multiply constants by: vectors, and the rows and columns of matrices (K, N)."""

    vectors: dict[str, Floats] = field(default_factory=dict)
    rows: dict[str, Floats] = field(default_factory=dict)
    columns: dict[str, tuple[int, Floats]] = field(default_factory=dict)
    values: dict[str, Floats] = field(default_factory=dict)  # what a value is divided by

    def add(self, value: str, fold: Fold, readers: Sequence[Layer], factors: Floats) -> None:
        """Divide a value by `factors`, (K,), and multiply what reads it."""
        inverse = (1 / factors).astype(np.float32)
        for name in fold.vectors:
            self.vectors[name] = inverse
        if fold.matrix is not None:
            self.columns[fold.matrix] = fold.start, inverse
        for layer in readers:
            self.rows[layer.weight] = factors
        self.values[value] = factors

    def apply(self, weight: str, matrix: Floats) -> Floats:
        """Return a matrix (K, N) with its factors."""
        if weight in self.rows:
            matrix = matrix * self.rows[weight][:, None]
        if weight in self.columns:
            start, factors = self.columns[weight]
            matrix = np.array(matrix)
            matrix[:, start : start + len(factors)] *= factors
        return matrix


def find_folds(model: onnx.ModelProto, layers: Sequence[Layer]) -> dict[str, Fold]:
    """Return where the factors of the values that layers read can go.

    A value that something else reads too has none, nor one whose matrix has another reader than
    the lookups of a table; these have to take the factors back.
    """
    graph = model.graph
    lookups = Counter(node.input[0] for node in graph.node if is_lookup(node))
    readers = readers_of(graph)
    seen = _Graph(model, readers)
    found: dict[str, Fold] = {}
    for value in dict.fromkeys(layer.value for layer in layers):
        maker = seen.makers.get(value)
        reading = [layer for layer in layers if layer.value == value]
        if maker is None or len(readers[value]) != len(reading):
            continue
        if any(len(readers[x.weight]) > 1 + x.rows * lookups[x.weight] for x in reading):
            continue
        first = seen.constants[reading[0].weight]
        width = int(first.dims[1 if reading[0].rows else 0])
        if fold := _FOLDS.get(maker.op_type, _none)(seen, maker, width):
            found[value] = fold
    return found


class _Graph:
    def __init__(self, model: onnx.ModelProto, readers: Mapping[str, Sequence[Any]]) -> None:
        self.makers = {name: node for node in model.graph.node for name in node.output}
        self.constants = {tensor.name: tensor for tensor in model.graph.initializer}
        self.readers = readers

    def alone(self, value: str) -> bool:
        return len(self.readers[value]) == 1

    def parts(self, split: onnx.NodeProto, width: int) -> list[int]:
        """Return how many of so many columns each output of a Split has; none if it is unknown."""
        axis = next((a.i for a in split.attribute if a.name == "axis"), 0)
        stated = self.constants.get(split.input[1]) if len(split.input) > 1 else None
        if stated is not None:
            sizes = [int(size) for size in onnx.numpy_helper.to_array(stated)]
        elif len(split.input) == 1 and width % len(split.output) == 0:
            sizes = [width // len(split.output)] * len(split.output)
        else:
            sizes = []
        return sizes if axis == -1 and sum(sizes) == width else []


def _none(graph: _Graph, node: onnx.NodeProto, width: int) -> Fold | None:
    del graph, node, width
    return None


def _norm(graph: _Graph, node: onnx.NodeProto, width: int) -> Fold | None:
    """Take a norm's weights, which have to be constants for anything to multiply them."""
    del width
    vectors = tuple(name for name in node.input[1:] if name)
    constant = graph.constants.keys() >= set(vectors)
    return Fold(vectors) if constant and all(map(graph.alone, vectors)) else None


def _gated(graph: _Graph, node: onnx.NodeProto, width: int) -> Fold | None:
    """Follow the factor that comes straight from a product's columns, through a Split.

    It has all of the value's columns: one that is spread over them has no factor for each.
    """
    for value in node.input:
        split = graph.makers.get(value)
        if split is None or split.op_type != "Split" or not graph.alone(value):
            continue
        product = graph.makers.get(split.input[0])
        if product is None or product.op_type != "MatMul":
            continue
        matrix = graph.constants.get(product.input[1])
        if matrix is None or not graph.alone(product.output[0]) or not graph.alone(matrix.name):
            continue
        sizes, place = graph.parts(split, matrix.dims[-1]), list(split.output).index(value)
        if sizes and sizes[place] == width:
            return Fold(matrix=matrix.name, start=sum(sizes[:place]))
    return None


_FOLDS: Mapping[str, Callable[[_Graph, onnx.NodeProto, int], Fold | None]] = {
    **dict.fromkeys(_NORMS, _norm),
    "Mul": _gated,
}
