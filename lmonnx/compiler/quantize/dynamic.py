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
from lmonnx.compiler.graph import MICROSOFT, WeightFile, graph_spec, load_graph, read_weight
from lmonnx.compiler.quantize.layers import is_lookup, node_name
from lmonnx.compiler.quantize.weights import Columns, quantize_columns, quantize_rows

_AXES_ARE_INPUTS = 18  # the opset from which ReduceMax takes its axes as an input
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
    means: Mapping[str, NDArray[np.float64]] | None = None,
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
        means: Of what flows into layers, (K,) by value: biases take back the mean error.
        switched: Hold the layers in both precisions, chosen by a bool input `switches`, (L,).
    """
    model = load_graph(source)
    weights = WeightFile(target.with_name(f"{target.name}_data"))
    try:
        rewriter = _Rewriter(
            model, source.parent, weights, granularity, means or {}, switched=switched
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
class _Rewriter:
    """One walk over the nodes: each is kept, or replaced by those that compute it in int8."""

    model: onnx.ModelProto
    folder: Path
    weights: WeightFile
    granularity: Granularity
    means: Mapping[str, NDArray[np.float64]]
    switched: bool
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    added: dict[str, onnx.TensorProto] = field(default_factory=dict)
    activations: dict[str, tuple[str, str, str]] = field(default_factory=dict)
    tensors: dict[str, onnx.TensorProto] = field(default_factory=dict)
    readers: dict[str, list[onnx.NodeProto]] = field(default_factory=dict)
    merged: set[str] = field(default_factory=set)

    def rewrite(self, layers: Sequence[str]) -> None:
        graph = self.model.graph
        self.tensors = {tensor.name: tensor for tensor in graph.initializer}
        for node in graph.node:
            for name in node.input:
                self.readers[name] = [*self.readers.get(name, []), node]
        wanted = {name: index for index, name in enumerate(layers)}
        for node in list(graph.node):
            self._rewrite_node(node, wanted.get(node_name(node)))
        if self.switched:
            shape = [len(layers)]
            graph.input.append(helper.make_tensor_value_info(SWITCHES, 9, shape))  # 9: bool
        used = {name for node in self.nodes for name in node.input}
        del graph.node[:]
        graph.node.extend(self.nodes)
        del graph.initializer[:]
        for name in (*self.tensors, *self.added):
            if name in used:
                graph.initializer.append(self.added.get(name) or self._copied(self.tensors[name]))

    def _rewrite_node(self, node: onnx.NodeProto, index: int | None) -> None:
        if node_name(node) in self.merged:
            return
        table = self.tensors.get(node.input[0]) if node.op_type == "Gather" else None
        if index is not None and self.switched:
            self._switched_layer(node, index)
        elif index is not None:
            self._layer_with_bias(node)
        elif table is not None and table.data_type == 1 and is_lookup(node):
            self._table(node, self._read(table))
        else:
            self.nodes.append(node)

    def _layer_with_bias(self, node: onnx.NodeProto) -> None:
        """Write a layer; the bias after it takes back the mean error, and is merged if it can be.

        By rows it cannot: the rows' scales are applied after the product, the bias after these.
        """
        matrix = self._matrix(node)
        columns = quantize_columns(matrix)
        reader, place = self._bias(node)
        if reader is not None and node.input[0] in self.means:
            error = matrix - columns[0] * columns[1]
            reader.input[place] = self._corrected(node, reader.input[place], error)
        if reader is not None and reader is node:
            self._biased_layer(node, columns, node.input[place], node.output[0])
        elif self.granularity is Granularity.TENSOR and reader and reader.op_type == "Add":
            self._layer(node, columns, reader.output[0], reader.input[place])
            self.merged.add(node_name(reader))
        else:
            self._layer(node, columns, node.output[0])

    def _matrix(self, node: onnx.NodeProto) -> NDArray[np.float32]:
        """Return a layer's weights as its input meets them: (K, N)."""
        stored = np.asarray(self._read(self.tensors[node.input[1]]))
        return stored.T if node.op_type == "Gemm" else stored

    def _biased_layer(self, node: onnx.NodeProto, columns: Columns, bias: str, output: str) -> None:
        """Write a Gemm, which holds its own bias."""
        if self.granularity is Granularity.TENSOR:
            self._layer(node, columns, output, bias)
            return
        product = f"{node_name(node)}/product"
        self._layer(node, columns, product)
        self._op("Add", [product, bias], f"{node_name(node)}/bias", output)

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

    def _corrected(self, node: onnx.NodeProto, bias: str, error: NDArray[np.float32]) -> str:
        """Store bias + E[x]·(W - Ŵ), so that the outputs' mean is that of the float layer.

        Source:
            Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias
            Correction" (arXiv:1906.04721), section 4.2.
        """
        mean = self.means[node.input[0]] @ error
        values = self._read(self.tensors[bias]) + mean.astype(np.float32)
        # Of the node, not of the bias: layers that share weights have errors of their own.
        return self._store(f"{node_name(node)}/bias_corrected", values)

    def _read(self, tensor: onnx.TensorProto) -> NDArray[Any]:
        return read_weight(tensor, self.folder)

    def _copied(self, tensor: onnx.TensorProto) -> onnx.TensorProto:
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            return tensor
        return self.weights.add(tensor.name, self._read(tensor))

    def _store(self, name: str, array: NDArray[Any]) -> str:
        if name not in self.added:
            small = array.nbytes < 1024
            make = onnx.numpy_helper.from_array(array, name) if small else None
            self.added[name] = make or self.weights.add(name, array)
        return name

    def _op(self, op_type: str, inputs: list[str], name: str, output: str = "", **kw: Any) -> str:
        domain = MICROSOFT if op_type == "MatMulIntegerToFloat" else ""
        result = output or f"{name}_output"
        self.nodes.append(
            helper.make_node(op_type, inputs, [result], name=name, domain=domain, **kw)
        )
        return result

    def _layer(self, node: onnx.NodeProto, columns: Columns, output: str, bias: str = "") -> None:
        x, weight, name = node.input[0], node.input[1], node_name(node)
        # The table that is looked up is rounded by rows; the same as a matrix by columns.
        stem = f"{weight}_columns" if node.op_type == "Gemm" else weight
        q = self._store(f"{stem}_int8", columns[0])
        s = self._store(f"{stem}_scale", columns[1])
        if self.granularity is Granularity.TENSOR:
            u, scale, zero = self._whole(x)
            inputs = [u, q, scale, s, zero, *(["", bias] if bias else [])]
            self._op("MatMulIntegerToFloat", inputs, f"{name}/int8", output)
            return
        u, scale, zero = self._rows(x)
        inputs = [u, q, self._scalar("one"), s, zero]
        product = self._op("MatMulIntegerToFloat", inputs, f"{name}/int8")
        self._op("Mul", [product, scale], f"{name}/row_scale", output)

    def _switched_layer(self, node: onnx.NodeProto, index: int) -> None:
        name, result = node_name(node), node.output[0]
        columns = quantize_columns(self._matrix(node))
        if node.op_type == "Gemm" and len(node.input) > 2:
            self._biased_layer(node, columns, node.input[2], f"{result}/int8")
        else:
            self._layer(node, columns, f"{result}/int8")
        node.output[0] = f"{result}/float"
        self.nodes.append(node)
        place = self._store(f"int8/index_{index}", np.array(index, np.int64))
        chosen = self._op("Gather", [SWITCHES, place], f"{name}/switch", axis=0)
        self._op("Where", [chosen, f"{result}/int8", f"{result}/float"], f"{name}/Where", result)

    def _rows(self, x: str) -> tuple[str, str, str]:
        """Return uint8 rows around 128, their scales, the zero point; once for all readers of x.

        scale = max|x| / 127, x ≈ (u - 128) · scale.
        """
        if x not in self.activations:
            name, zero = f"{x}/rows", self._scalar("zero_point")
            magnitude = self._op("Abs", [x], f"{name}/Abs")
            largest = self._reduce_max(magnitude, f"{name}/ReduceMax")
            scale = self._op("Mul", [largest, self._scalar("step")], f"{name}/Step")
            scale = self._op("Max", [scale, self._scalar("least")], f"{name}/Scale")
            ratio = self._op("Div", [x, scale], f"{name}/Div")
            u = self._op("QuantizeLinear", [ratio, self._scalar("one"), zero], f"{name}/uint8")
            self.activations[x] = (u, scale, zero)
        return self.activations[x]

    def _whole(self, x: str) -> tuple[str, str, str]:
        """Return the tensor in uint8 with its one scale and zero point; once for all readers."""
        if x not in self.activations:
            name = f"{x}/whole"
            results = (f"{name}/uint8", f"{name}/scale", f"{name}/zero_point")
            self.nodes.append(helper.make_node("DynamicQuantizeLinear", [x], results, name=name))
            self.activations[x] = results
        return self.activations[x]

    def _reduce_max(self, x: str, name: str) -> str:
        opset = max(o.version for o in self.model.opset_import if o.domain in {"", "ai.onnx"})
        if opset < _AXES_ARE_INPUTS:
            return self._op("ReduceMax", [x], name, axes=[-1], keepdims=1)
        axes = self._store("int8/last_axis", np.array([-1], np.int64))
        return self._op("ReduceMax", [x, axes], name, keepdims=1)

    def _scalar(self, name: str) -> str:
        return self._store(f"int8/{name}", _SCALARS[name])

    def _table(self, node: onnx.NodeProto, table: NDArray[Any]) -> None:
        """Look up int8 rows and their scales: the table is most of a small model's bytes."""
        integers, scales = quantize_rows(np.asarray(table))
        name, ids = node_name(node), node.input[1]
        q = self._store(f"{node.input[0]}_int8", integers)
        s = self._store(f"{node.input[0]}_scale", scales)
        rows = self._op("Gather", [q, ids], f"{name}/int8", axis=0)
        scale = self._op("Gather", [s, ids], f"{name}/scale", axis=0)
        floats = self._op("Cast", [rows], f"{name}/Cast", to=1)
        self._op("Mul", [floats, scale], f"{name}/Mul", node.output[0])


_SCALARS: dict[str, NDArray[Any]] = {
    "one": np.array(1, np.float32),
    "step": np.array(1 / 127, np.float32),
    "least": np.array(1e-30, np.float32),  # a row of zeros has a scale, so nothing divides by 0
    "zero_point": np.array(128, np.uint8),
}
