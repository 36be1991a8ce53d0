"""Float decoder graph → one of integers: each product by blocks or by rows, as `forms` says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from lmonnx.bundle.manifest import GraphSpec
from lmonnx.compiler.graph import MICROSOFT, WeightFile, graph_spec, load_graph
from lmonnx.compiler.quantize.block_writer import BlockWriter
from lmonnx.compiler.quantize.blocks import Blocks, quantize_blocks
from lmonnx.compiler.quantize.calibrated import inverse_factor, round_blocks, round_columns
from lmonnx.compiler.quantize.folding import Factors
from lmonnx.compiler.quantize.layers import Layer, find_layers, is_lookup, node_name
from lmonnx.compiler.quantize.moments import Moments
from lmonnx.compiler.quantize.weights import Columns, quantize_columns
from lmonnx.compiler.quantize.writer import Known

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Form:
    """How a product is held: in blocks of `bits`, or with `block_size` 0 in int8 by rows."""

    bits: int
    block_size: int


BY_ROWS = Form(8, 0)
CALIBRATED = (4,)  # bits; eight lose nothing that calibration could give back


@dataclass(frozen=True, slots=True)
class Recipe:
    """What to make of a decoder's graph.

    `forms` are by layer, or by the node that looks up a table of its own; what is not named stays
    as it is. `moments` are of what flows into layers: without a layer's its weights are rounded to
    the nearest. `factors` are what constants are multiplied by first; the moments are of values
    without them. `scales` are of values that are rounded to int8 with one scale for every row,
    known beforehand.
    """

    forms: Mapping[str, Form]
    moments: Mapping[str, Moments] = field(default_factory=dict)
    factors: Factors = field(default_factory=Factors)
    scales: Mapping[str, float] = field(default_factory=dict)


def write_decoder(
    source: Path, target: Path, file: str, recipe: Recipe, *, known: Known | None = None
) -> GraphSpec:
    """Write a decoder's graph with some products in integers, its weights a tensor at a time.

    Args:
        source: The float graph.
        target: Where the graph goes; its weights go beside it.
        file: What the manifest calls it.
        recipe: What to make of it.
        known: Weights that other graphs of the folder hold already; those of this one are added.
    """
    model = load_graph(source)
    weights = WeightFile(target.with_name(f"{target.name}_data"))
    try:
        shared = {} if known is None else known
        _Writer(model, source.parent, weights, known=shared, recipe=recipe).rewrite()
    finally:
        weights.close()
    if MICROSOFT not in {opset.domain for opset in model.opset_import}:
        model.opset_import.append(helper.make_opsetid(MICROSOFT, 1))
    onnx.save(model, target)
    return graph_spec(model, file, optimized=True)


@dataclass(slots=True)
class _Writer(BlockWriter):
    recipe: Recipe = field(default_factory=lambda: Recipe({}))
    tensors: dict[str, onnx.TensorProto] = field(default_factory=dict)
    tied: dict[str, Layer] = field(default_factory=dict)
    last_factor: tuple[str, Floats] | None = None

    def rewrite(self) -> None:
        graph, forms = self.model.graph, self.recipe.forms
        self.tensors = {tensor.name: tensor for tensor in graph.initializer}
        layers = {layer.name: layer for layer in find_layers(self.model) if layer.name in forms}
        self.tied = {layer.weight: layer for layer in layers.values() if layer.rows}
        for node in list(graph.node):
            own = node_name(node) in forms
            if is_lookup(node) and (own or node.input[0] in self.tied):
                self._lookup(node)
            elif node_name(node) in layers:
                self._layer(layers[node_name(node)], node.output[0])
            else:
                self.nodes.append(node)
        self.replace(self.tensors)

    def kept(self, tensor: onnx.TensorProto) -> onnx.TensorProto:
        """Take a constant over, with its factors where it is a norm's weight or a float matrix."""
        factors, name = self.recipe.factors, tensor.name
        if name in factors.vectors:
            self.store(name, self.read(tensor) * factors.vectors[name])
        elif name in factors.rows or name in factors.columns:
            self.store(name, factors.apply(name, np.asarray(self.read(tensor))))
        else:
            return self.copied(tensor)
        return self.added[name]

    def _lookup(self, node: onnx.NodeProto) -> None:
        weight, name = node.input[0], node_name(node)
        if weight in self.tied:
            self._round_blocks(self.tied[weight])
        else:
            form, table = self.recipe.forms[name], self.read(self.tensors[weight])
            made = quantize_blocks(table, bits=form.bits, block_size=form.block_size)
            self.store_blocks(weight, made, lookup=True)
        self.lookup(node.input[1], weight, name, node.output[0])

    def _layer(self, layer: Layer, output: str) -> None:
        if self.recipe.forms[layer.name].block_size:
            self._round_blocks(layer)
            dims = self.tensors[layer.weight].dims
            inputs, outputs = reversed(dims) if layer.rows else dims
            self.product(layer.value, layer.weight, outputs, inputs, layer.name, output)
            return
        integers, scales = self._columns(layer)
        weight = self.store(f"{layer.weight}_int8", integers)
        column_scales = self.store(f"{layer.weight}_scale", scales)
        name, fixed = f"{layer.name}/int8", self.recipe.scales.get(layer.value)
        if fixed is not None:
            u, scale, zero = self.fixed(layer.value, fixed)
            stored = [u, weight, scale, column_scales, zero]
            self.op("MatMulIntegerToFloat", stored, name, output)
            return
        u, scale, zero = self.rows(layer.value)
        stored = [u, weight, self.scalar("one"), column_scales, zero]
        y = self.op("MatMulIntegerToFloat", stored, name)
        self.op("Mul", [y, scale], f"{layer.name}/row_scale", output)

    def _columns(self, layer: Layer) -> Columns:
        matrix = self._matrix(layer)
        if layer.value in self.recipe.moments:
            return round_columns(matrix, self._factor(layer.value))
        return quantize_columns(matrix)

    def _matrix(self, layer: Layer) -> Floats:
        """Return a layer's weights (K, N) with their factors."""
        stored = np.asarray(self.read(self.tensors[layer.weight]), np.float32)
        return self.recipe.factors.apply(layer.weight, stored.T if layer.rows else stored)

    def _round_blocks(self, layer: Layer) -> None:
        if layer.weight in self.blocks:
            return
        form, matrix = self.recipe.forms[layer.name], self._matrix(layer)
        made: Blocks
        if layer.value in self.recipe.moments and form.bits in CALIBRATED:
            factor = self._factor(layer.value)
            made = round_blocks(matrix, factor, bits=form.bits, block_size=form.block_size)
        else:
            made = quantize_blocks(matrix.T, bits=form.bits, block_size=form.block_size)
        self.store_blocks(layer.weight, made, lookup=layer.weight in self.tied)

    def _factor(self, value: str) -> Floats:
        """Return the factor of a value; kept for the next layer, which may read it too."""
        if self.last_factor is None or self.last_factor[0] != value:
            divided = self.recipe.factors.values.get(value)
            seen = self.recipe.moments[value].divided(divided)
            self.last_factor = value, inverse_factor(seen.second)
        return self.last_factor[1]
