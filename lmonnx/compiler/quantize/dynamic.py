"""Float graph → int8 graph: 7-bit weights a column, activations scaled as they come."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from lmonnx.bundle.manifest import GraphSpec
from lmonnx.compiler.graph import MICROSOFT, Known, WeightFile, graph_spec
from lmonnx.compiler.quantize.activations import LOWEST, NORMS, channel_factors, is_one_sided
from lmonnx.compiler.quantize.calibration import Calibration
from lmonnx.compiler.quantize.layers import is_lookup, load_direct, node_name
from lmonnx.compiler.quantize.rounding import Rounding
from lmonnx.compiler.quantize.weights import Columns, quantize_columns, quantize_rows
from lmonnx.compiler.quantize.writer import readers_of

SWITCHES = "switches"


class Granularity(StrEnum):
    """What shares one activation scale."""

    ROW = "row"  # one token: its answer does not depend on its batch
    TENSOR = "tensor"  # the whole batch: faster on some CPUs, and one outlier spoils its neighbours


def write_int8(
    source: Path,
    target: Path,
    file: str,
    *,
    granularity: Granularity,
    layers: Sequence[str],
    optimized: bool,
    calibration: Calibration | None = None,
    switched: bool = False,
) -> GraphSpec:
    """Write the int8 graph of a float one, its weights a tensor at a time.

    Args:
        source: The float graph.
        target: Where the int8 graph goes; its weights go beside it.
        file: What the manifest calls it.
        granularity: What shares one activation scale.
        layers: Names of the layers to quantize; all others stay in float32.
        optimized: That no session need optimize it further.
        calibration: What flows into layers, by value: biases take back the mean error, and by
            rows the range is used better (see activations.py).
        switched: Hold the layers in both precisions, chosen by a bool input `switches`, (L,).
    """
    model = load_direct(source)
    weights = WeightFile(target.with_name(f"{target.name}_data"), Known())
    try:
        rewriter = _Rewriter(
            model,
            source.parent,
            weights,
            granularity=granularity,
            calibration=calibration or {},
            switched=switched,
        )
        rewriter.rewrite(layers)
    finally:
        weights.close()
    _set_domains(model)
    onnx.save(model, target)
    return graph_spec(model, file, optimized=optimized)


def _set_domains(model: onnx.ModelProto) -> None:
    if MICROSOFT not in {opset.domain for opset in model.opset_import}:
        model.opset_import.append(helper.make_opsetid(MICROSOFT, 1))


@dataclass(slots=True)
class _Rewriter(Rounding):
    """One walk over the nodes: each is kept, or replaced by those that compute it in int8."""

    granularity: Granularity = Granularity.ROW
    calibration: Calibration = field(default_factory=dict)
    switched: bool = False
    tensors: dict[str, onnx.TensorProto] = field(default_factory=dict)
    readers: dict[str, list[onnx.NodeProto]] = field(default_factory=dict)
    merged: set[str] = field(default_factory=set)
    unlifted: set[str] = field(default_factory=set)  # layers whose bias takes the lift back

    def rewrite(self, layers: Sequence[str]) -> None:
        graph = self.model.graph
        self.tensors = {tensor.name: tensor for tensor in graph.initializer}
        self.readers = readers_of(graph)
        wanted = {name: index for index, name in enumerate(layers)}
        if self.granularity is Granularity.ROW:
            self._prepare([node for node in graph.node if node_name(node) in wanted])
        for node in list(graph.node):
            self._rewrite_node(node, wanted.get(node_name(node)))
        if self.switched:
            shape = [len(layers)]
            graph.input.append(helper.make_tensor_value_info(SWITCHES, 9, shape))  # 9: bool
        self.replace(self.tensors)

    def _prepare(self, layers: Sequence[onnx.NodeProto]) -> None:
        """Choose which values have factors a channel, and which have an empty side."""
        norms = {n for x in self.model.graph.node if x.op_type in NORMS for n in x.output}
        read: dict[str, list[onnx.NodeProto]] = {}
        for node in layers:
            read[node.input[0]] = [*read.get(node.input[0], []), node]
        for values in _sharing(read):
            nodes = [node for value in values for node in read[value]]
            if norms.issuperset(values) and self.calibration.keys() >= set(values):
                # A matrix is stored once, so whatever it multiplies has the same factors.
                peak = np.maximum.reduce([self.calibration[value].peak for value in values])
                factors = channel_factors(peak, [self._matrix(node) for node in nodes])
                self.factors |= dict.fromkeys(values, factors)
                continue
            found = [value for value in values if value in self.calibration]
            self.one_sided |= {value for value in found if is_one_sided(self.calibration[value])}

    def _rewrite_node(self, node: onnx.NodeProto, index: int | None) -> None:
        if node_name(node) in self.merged:
            return
        table = self.tensors.get(node.input[0]) if node.op_type == "Gather" else None
        if index is not None and self.switched:
            self._switched_layer(node, index)
        elif index is not None:
            self._layer_with_bias(node)
        elif table is not None and table.data_type == 1 and is_lookup(node):
            self._table(node, self.read(table))
        else:
            self.nodes.append(node)

    def _layer_with_bias(self, node: onnx.NodeProto) -> None:
        """Write a layer; the bias after it takes back the mean error, and is merged if it can be.

        By rows it cannot: the rows' scales are applied after the product, the bias after these.
        """
        columns, error = self._rounded(node)
        reader, place = self._bias(node)
        if reader is not None and node.input[0] in self.calibration:
            reader.input[place] = self._corrected(node, reader.input[place], error, columns)
        if reader is not None and reader is node:
            self._biased_layer(node, columns, node.input[place], node.output[0])
        elif self.granularity is Granularity.TENSOR and reader and reader.op_type == "Add":
            self._layer(node, columns, reader.output[0], reader.input[place])
            self.merged.add(node_name(reader))
        else:
            self._layer(node, columns, node.output[0])

    def _rounded(self, node: onnx.NodeProto) -> tuple[Columns, NDArray[np.float32]]:
        """Return a layer's integers and scales, and what its weights lose by them: (K, N)."""
        matrix, factors = self._matrix(node), self.factors.get(node.input[0])
        if factors is None:
            columns = quantize_columns(matrix)
            return columns, matrix - columns[0] * columns[1]
        columns = quantize_columns(matrix * factors[:, None])
        return columns, matrix - columns[0] * columns[1] / factors[:, None]

    def _matrix(self, node: onnx.NodeProto) -> NDArray[np.float32]:
        """Return a layer's weights as its input meets them: (K, N)."""
        stored = np.asarray(self.read(self.tensors[node.input[1]]))
        return stored if node.op_type == "MatMul" else stored.T

    def _biased_layer(self, node: onnx.NodeProto, columns: Columns, bias: str, output: str) -> None:
        """Write a Gemm, which holds its own bias."""
        if self.granularity is Granularity.TENSOR:
            self._layer(node, columns, output, bias)
            return
        product = f"{node_name(node)}/product"
        self._layer(node, columns, product)
        self.op("Add", [product, bias], f"{node_name(node)}/bias", output)

    def _bias(self, node: onnx.NodeProto) -> tuple[onnx.NodeProto | None, int]:
        """Return the node that alone reads a product and adds a constant vector, and its place.

        That of a Gemm is the node itself.
        """
        if node.op_type == "Gemm":
            return (node, 2) if len(node.input) > 2 else (None, 0)
        readers = self.readers.get(node.output[0], [])
        if len(readers) == 1 and readers[0].op_type in {"Add", "BiasGelu", "FastGelu"}:
            for place, name in enumerate(readers[0].input):
                if name in self.tensors and len(self.tensors[name].dims) == 1:
                    return readers[0], place
        return None, 0

    def _corrected(
        self, node: onnx.NodeProto, bias: str, error: NDArray[np.float32], columns: Columns
    ) -> str:
        """Store bias + E[x]·(W - Ŵ), so that the outputs' mean is that of the float layer.

        Of a value with one side it takes the lift back too, which saves a node.

        Source:
            Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias
            Correction" (arXiv:1906.04721), section 4.2.
        """
        mean = self.calibration[node.input[0]].mean @ error
        values = self.read(self.tensors[bias]) + mean.astype(np.float32)
        if node.input[0] in self.one_sided:
            values = values + _unlift(columns)
            self.unlifted.add(node_name(node))
        # Of the node, not of the bias: layers that share weights have errors of their own.
        return self.store(f"{node_name(node)}/bias_corrected", values)

    def _layer(self, node: onnx.NodeProto, columns: Columns, output: str, bias: str = "") -> None:
        x, weight, name = node.input[0], node.input[1], node_name(node)
        # The table that is looked up is rounded by rows; the same as a matrix by columns.
        stem = weight if node.op_type == "MatMul" else f"{weight}_columns"
        q = self.store(f"{stem}_int8", columns[0])
        s = self.store(f"{stem}_scale", columns[1])
        if self.granularity is Granularity.TENSOR:
            u, scale, zero = self.whole(x)
            inputs = [u, q, scale, s, zero, *(["", bias] if bias else [])]
            self.op("MatMulIntegerToFloat", inputs, f"{name}/int8", output)
            return
        u, scale, zero = self.rows(x)
        inputs = [u, q, self.scalar("one"), s, zero]
        product = self.op("MatMulIntegerToFloat", inputs, f"{name}/int8")
        if x not in self.one_sided or name in self.unlifted:
            self.op("Mul", [product, scale], f"{name}/row_scale", output)
            return
        scaled = self.op("Mul", [product, scale], f"{name}/row_scale")
        self.op(
            "Add", [scaled, self.store(f"{name}/lift", _unlift(columns))], f"{name}/Unlift", output
        )

    def _switched_layer(self, node: onnx.NodeProto, index: int) -> None:
        name, result = node_name(node), node.output[0]
        columns, _ = self._rounded(node)
        if node.op_type == "Gemm" and len(node.input) > 2:
            self._biased_layer(node, columns, node.input[2], f"{result}/int8")
        else:
            self._layer(node, columns, f"{result}/int8")
        node.output[0] = f"{result}/float"
        self.nodes.append(node)
        place = self.store(f"int8/index_{index}", np.array(index, np.int64))
        chosen = self.op("Gather", [SWITCHES, place], f"{name}/switch", axis=0)
        self.op("Where", [chosen, f"{result}/int8", f"{result}/float"], f"{name}/Where", result)

    def _table(self, node: onnx.NodeProto, table: NDArray[Any]) -> None:
        """Look up int8 rows and their scales: the table is most of a small model's bytes."""
        integers, scales = quantize_rows(np.asarray(table))
        name, ids = node_name(node), node.input[1]
        q = self.store(f"{node.input[0]}_int8", integers)
        s = self.store(f"{node.input[0]}_scale", scales)
        rows = self.op("Gather", [q, ids], f"{name}/int8", axis=0)
        scale = self.op("Gather", [s, ids], f"{name}/scale", axis=0)
        floats = self.op("Cast", [rows], f"{name}/Cast", to=1)
        self.op("Mul", [floats, scale], f"{name}/Mul", node.output[0])


def _sharing(read: Mapping[str, Sequence[onnx.NodeProto]]) -> list[list[str]]:
    """Return the values that layers read, those together whose layers share a matrix."""
    groups: list[tuple[list[str], set[str]]] = []
    for value, nodes in read.items():
        values, weights = [value], {node.input[1] for node in nodes}
        for group in [group for group in groups if group[1] & weights]:
            groups.remove(group)
            values, weights = group[0] + values, group[1] | weights
        groups.append((values, weights))
    return [values for values, _ in groups]


def _unlift(columns: Columns) -> NDArray[np.float32]:
    """Return -LOWEST·Ŵ: (x + LOWEST)·Ŵ - LOWEST·Ŵ = x·Ŵ, exactly."""
    sums = (columns[0] * columns[1]).sum(axis=0, dtype=np.float64)
    return np.asarray(-LOWEST * sums, np.float32)
