"""Float graph → one of integers: each product by blocks or by rows, as `forms` says."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from lmonnx.bundle.manifest import GraphSpec
from lmonnx.compiler.graph import MICROSOFT, Known, WeightFile, graph_spec, place_of
from lmonnx.compiler.quantize.block_writer import StoredBlocks
from lmonnx.compiler.quantize.blocks import Blocks, quantize_blocks
from lmonnx.compiler.quantize.calibrated import inverse_factor, round_blocks, round_columns
from lmonnx.compiler.quantize.forms import BY_ROWS, CALIBRATED, SEVEN_BIT_TABLE, Form, Recipe
from lmonnx.compiler.quantize.layers import Layer, find_layers, is_lookup, load_direct, node_name
from lmonnx.compiler.quantize.rounding import Scale
from lmonnx.compiler.quantize.row_writer import RowWriter
from lmonnx.compiler.quantize.weights import EIGHT_BITS, SEVEN_BITS, Columns, quantize_columns
from lmonnx.compiler.quantize.writer import readers_of
from lmonnx.compiler.ranking import RANKED, flatten_logits
from lmonnx.progress import Progress, silent, track

Floats = NDArray[np.float32]


MOST_STEPS = 2**30  # of a bias, so that its sum with a product stays int32


@dataclass(frozen=True, slots=True)
class Shared:
    """What graphs of one folder hold in common: bytes, and by their place what was made of floats.

    `blocks` are of matrices and tables; `factors` are what the channels of tables by rows are
    multiplied by.
    """

    known: Known = field(default_factory=Known)
    blocks: dict[tuple[str, ...], StoredBlocks] = field(default_factory=dict)
    factors: dict[tuple[str, ...], Floats] = field(default_factory=dict)


def write_decoder(
    source: Path,
    target: Path,
    file: str,
    recipe: Recipe,
    *,
    shared: Shared | None = None,
    progress: Progress = silent,
) -> GraphSpec:
    """Write a graph with some products in integers, its weights a tensor at a time.

    Args:
        source: The float graph.
        target: Where the graph goes; its weights go beside it.
        file: What the manifest calls it.
        recipe: What to make of it.
        shared: What other graphs of the folder hold already; what this one holds is added. The one
            that multiplies a table comes before those that only look it up.
        progress: Told after every node.
    """
    model = load_direct(source)
    common = shared or Shared()
    weights = WeightFile(target.with_name(f"{target.name}_data"), common.known)
    try:
        writer = _Writer(model, source.parent, weights, recipe=recipe, shared=common)
        writer.rewrite(progress)
    finally:
        weights.close()
    if MICROSOFT not in {opset.domain for opset in model.opset_import}:
        model.opset_import.append(helper.make_opsetid(MICROSOFT, 1))
    onnx.save(model, target)
    spec = graph_spec(model, file, optimized=True)
    return replace(spec, made=tuple(writer.made)) if writer.made else spec


@dataclass(slots=True)
class _Writer(RowWriter):
    recipe: Recipe = field(default_factory=lambda: Recipe({}))
    shared: Shared = field(default_factory=Shared)
    tensors: dict[str, onnx.TensorProto] = field(default_factory=dict)
    tied: dict[str, Layer] = field(default_factory=dict)
    readers: dict[str, list[onnx.NodeProto]] = field(default_factory=dict)
    merged: set[str] = field(default_factory=set)  # nodes whose work another one does
    flows: dict[str, list[str]] = field(default_factory=dict)  # into each matrix
    last_factor: tuple[tuple[str, ...], Floats] | None = None
    is_flat: bool = False  # whether logits are rows of all sequences, (N, V)

    def rewrite(self, progress: Progress) -> None:
        graph, forms = self.model.graph, self.recipe.forms
        self.tensors = {tensor.name: tensor for tensor in graph.initializer}
        layers = {layer.name: layer for layer in find_layers(self.model) if layer.name in forms}
        self.tied = {layer.weight: layer for layer in layers.values() if layer.rows}
        for layer in layers.values():
            self.flows.setdefault(layer.weight, []).append(layer.value)
        self.readers = readers_of(graph)
        for node in track(list(graph.node), "rounding", progress):
            own = node_name(node) in forms
            if node_name(node) in self.merged:
                continue
            if is_lookup(node) and (own or node.input[0] in self.tied):
                self._lookup(node)
            elif node_name(node) in layers:
                self._layer(layers[node_name(node)], node.output[0])
            else:
                self.nodes.append(node)
        self.replace(self.tensors)
        if self.is_flat:
            flatten_logits(graph)

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
        weight, name, y = node.input[0], node_name(node), node.output[0]
        tied = self.tied.get(weight)
        form = self.recipe.forms[tied.name if tied else name]
        if not form.block_size:
            factor, y = self._scaled(y)
            channels = self._store_table(weight, SEVEN_BIT_TABLE if tied else form)
            self.row_lookup(node.input[1], weight, name, y, factor=factor, channels=channels)
            return
        if tied:
            self._round_blocks(tied)
        elif not self._shared_blocks(weight, form):
            table = self.read(self.tensors[weight])
            self._store(weight, quantize_blocks(table, bits=form.bits, block_size=form.block_size))
        self.lookup(node.input[1], weight, name, y)

    def _shared_blocks(self, weight: str, form: Form) -> bool:
        """Take the blocks of another graph, if that has them in the same form."""
        held = self.shared.blocks.get(_place(self.tensors[weight]))
        if held is None or held.form != form:
            return False
        self.share_blocks(weight, held)
        return True

    def _store(self, weight: str, made: Blocks) -> None:
        self.shared.blocks[_place(self.tensors[weight])] = self.store_blocks(weight, made)

    def _store_table(self, weight: str, form: Form) -> Floats | None:
        """Store a table, once; return the factors of its channels, (E,), if it has any."""
        place = _place(self.tensors[weight])
        if weight in self.recipe.factors.rows:
            self.shared.factors[place] = self.recipe.factors.rows[weight]
        factors = self.shared.factors.get(place)
        if weight not in self.tables:
            limit = EIGHT_BITS if form == BY_ROWS else SEVEN_BITS
            table = np.asarray(self.read(self.tensors[weight]), np.float32)
            factored = table if factors is None else table * factors
            self.store_table(weight, quantize_columns(factored.T, limit))
        return factors

    def _layer(self, layer: Layer, output: str) -> None:
        if layer.bias:
            product = f"{layer.name}/product"
            self._layer(replace(layer, bias=""), product)
            self.op("Add", [product, layer.bias], f"{layer.name}/bias", output)
            return
        if self.recipe.forms[layer.name].block_size:
            self._round_blocks(layer)
            dims = self.tensors[layer.weight].dims
            inputs, outputs = reversed(dims) if layer.rows else dims
            self.product(layer.value, layer.weight, outputs, inputs, layer.name, output)
            return
        name, fixed = f"{layer.name}/int8", self.recipe.scales.get(layer.value)
        if layer.rows:
            self._store_table(layer.weight, SEVEN_BIT_TABLE)
            inner, y = self._table_bias(layer.weight, output, fixed)
            self.is_flat = fixed is not None and y == "logits" and self._ranks()
            self.table_product(
                layer.value, layer.weight, name, y, fixed, bias=inner, flat=self.is_flat
            )
            return
        bias, y = self._biased(output) if fixed is not None else ("", output)
        held = self.shared.blocks.get(_place(self.tensors[layer.weight]))
        if self.recipe.reuses and held is not None:
            self.make_columns(layer.weight, self.tensors[layer.weight], held, self.recipe.factors)
        else:
            self.store_columns(layer.weight, self._columns(layer))
        self.row_product(layer.value, layer.weight, name, y, fixed=fixed, bias=bias)

    def _biased(self, output: str) -> tuple[str, str]:
        """Return the vector that alone is added to a product, and what the sum is called."""
        node, constant = self._alone(output, "Add", 1)
        if node is None:
            return "", output
        self.merged.add(node_name(node))
        return constant, node.output[0]

    def _table_bias(
        self, weight: str, output: str, fixed: Scale | None
    ) -> tuple[NDArray[np.int32] | None, str]:
        """Return what alone is added to a product with a table, in steps, and the sum's name."""
        node, constant = self._alone(output, "Add", 1)
        if node is None:
            node, constant = self._alone(output, "Add", 2)  # (1, V), as traced heads have it
        if node is None or fixed is None or constant in self.recipe.factors.vectors:
            return None, output
        added = np.asarray(self.read(self.tensors[constant]), np.float64).reshape(-1)
        if len(added) != len(self.tables[weight]):
            return None, output
        steps = np.rint(added / (fixed.step * self.tables[weight]))
        if not (np.abs(steps) < MOST_STEPS).all():
            return None, output
        self.merged.add(node_name(node))
        return steps.astype(np.int32), node.output[0]

    def _ranks(self) -> bool:
        """Return whether the graph finds the best tokens itself, as encoder-decoders do."""
        return any(output.name == RANKED for output in self.model.graph.output)

    def _scaled(self, output: str) -> tuple[float, str]:
        """Return the number that alone multiplies a lookup, and what the product is called."""
        node, constant = self._alone(output, "Mul", 0)
        if node is None:
            return 1.0, output
        self.merged.add(node_name(node))
        return float(self.read(self.tensors[constant])), node.output[0]

    def _alone(self, value: str, op_type: str, rank: int) -> tuple[onnx.NodeProto | None, str]:
        """Return the node that alone reads a value, of a type, and its constant of a rank."""
        readers = self.readers.get(value, [])
        if len(readers) == 1 and readers[0].op_type == op_type:
            for name in readers[0].input:
                if name in self.tensors and len(self.tensors[name].dims) == rank:
                    return readers[0], name
        return None, ""

    def _columns(self, layer: Layer) -> Columns:
        matrix = self._matrix(layer)
        if layer.value in self.recipe.moments:
            return round_columns(matrix, self._factor(layer))
        return quantize_columns(matrix)

    def _matrix(self, layer: Layer) -> Floats:
        """Return a layer's weights (K, N) with their factors."""
        stored = np.asarray(self.read(self.tensors[layer.weight]), np.float32)
        return self.recipe.factors.apply(layer.weight, stored.T if layer.rows else stored)

    def _round_blocks(self, layer: Layer) -> None:
        if layer.weight in self.blocks:
            return
        form = self.recipe.forms[layer.name]
        if self.recipe.reuses and self._shared_blocks(layer.weight, form):
            return
        matrix = self._matrix(layer)
        made: Blocks
        if layer.value in self.recipe.moments and form.bits in CALIBRATED:
            factor = self._factor(layer)
            made = round_blocks(matrix, factor, bits=form.bits, block_size=form.block_size)
        else:
            made = quantize_blocks(matrix.T, bits=form.bits, block_size=form.block_size)
        self._store(layer.weight, made)

    def _factor(self, layer: Layer) -> Floats:
        """Return the factor of all that a layer's matrix multiplies.

        It is kept for the next layer, which may read the same.
        """
        values = tuple(v for v in self.flows[layer.weight] if v in self.recipe.moments)
        if self.last_factor is None or self.last_factor[0] != values:
            seconds = [self._second(value) for value in values]
            mean = np.mean(seconds, axis=0) if len(seconds) > 1 else seconds[0]
            self.last_factor = values, inverse_factor(mean)
        return self.last_factor[1]

    def _second(self, value: str) -> Floats:
        divided = self.recipe.factors.values.get(value)
        return self.recipe.moments[value].divided(divided).second


def _place(tensor: onnx.TensorProto) -> tuple[str, ...]:
    """Return where a tensor's bytes are, or of one that is in the graph itself what they are."""
    if tensor.data_location != onnx.TensorProto.EXTERNAL:
        return "", tensor.name, tensor.SerializeToString().hex()
    stated = place_of(tensor)
    return stated["location"], stated.get("offset", "0"), stated.get("length", "")
