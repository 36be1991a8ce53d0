"""A decoder's graph → one whose head multiplies only the rows of its table that a list names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from lmonnx.bundle.manifest import GraphSpec
from lmonnx.compiler.graph import MICROSOFT, Known, WeightFile, graph_spec, load_graph, read_weight
from lmonnx.compiler.quantize.layers import is_by_rows
from lmonnx.compiler.quantize.writer import GraphWriter
from lmonnx.compiler.ranking import RANKED
from lmonnx.compiler.shortlist.listed_ranking import rank_listed
from lmonnx.errors import StageError
from lmonnx.runtime.generate.shortlist import INPUTS

LIST, BIAS = INPUTS
LENGTH = "shortlist_length"
_WAY_OUT = "export the checkpoint, or its float32 graphs, with `lmonnx export`, and quantize that"


def write_listed(
    source: Path, target: Path, file: str, vocabulary: int, *, known: Known
) -> GraphSpec:
    """Write a decoder's graph with the inputs `shortlist` and `shortlist_bias` (decision 15).

    Args:
        source: The graph; its tensors lie beside it.
        target: Where the new one goes.
        file: What the manifest calls it.
        vocabulary: V.
        known: What the folder's other graph holds already.

    Raises:
        StageError: The head has another form than those that lmonnx writes.
    """
    model = load_graph(source)
    weights = WeightFile(target.with_name(f"{target.name}_data"), known)
    try:
        _Writer(model, source.parent, weights, vocabulary=vocabulary).rewrite()
    finally:
        weights.close()
    if MICROSOFT not in {opset.domain for opset in model.opset_import}:
        model.opset_import.append(helper.make_opsetid(MICROSOFT, 1))
    onnx.save(model, target)
    return graph_spec(model, file, optimized=True)


def find_head(graph: onnx.GraphProto) -> tuple[onnx.NodeProto, set[str]]:
    """Return the product of the head, and what is made of it on the way to the logits.

    Raises:
        StageError: It is none of those that lmonnx writes.
    """
    makers = {name: node for node in graph.node for name in node.output}
    name, after = "logits", set[str]()
    while (node := makers.get(name)) is not None and node.op_type in _FOLLOWING:
        after.add(name)
        name = next((i for i in node.input if i in makers), "")
    if node is None or node.op_type not in _PRODUCTS:
        found = node.op_type if node is not None else "nothing"
        raise StageError(
            f"the decoder's logits are made by {found}, of which no list can be taken; {_WAY_OUT}"
        )
    return node, after


@dataclass(slots=True)
class _Writer(GraphWriter):
    """Rewrites the product of the head and what follows it; all else stays."""

    vocabulary: int = 0
    tensors: dict[str, TensorProto] = field(default_factory=dict)
    makers: dict[str, onnx.NodeProto] = field(default_factory=dict)

    def rewrite(self) -> None:
        graph = self.model.graph
        self.tensors = {tensor.name: tensor for tensor in graph.initializer}
        self.makers = {name: node for node in graph.node for name in node.output}
        product, after = find_head(graph)
        for node in list(graph.node):
            output = node.output[0]
            if output == product.output[0]:
                _PRODUCTS[node.op_type](self, node, _named(output))
            elif output in after:
                self._follow(node, output)
            elif node.output[-1] == RANKED:
                self.nodes.append(rank_listed(node))
            else:
                self.nodes.append(node)
            if output == "logits":
                self._add_bias()
        self.replace(self.tensors)
        self._declare()

    def _follow(self, node: onnx.NodeProto, output: str) -> None:
        """Append a node behind the product, its constants of the vocabulary cut to the list."""
        made = onnx.NodeProto()
        made.CopyFrom(node)
        made.output[0] = _named(output)
        for place, name in enumerate(node.input):
            dims = self.tensors[name].dims if name in self.tensors else ()
            if dims and dims[-1] == self.vocabulary:
                flat = np.asarray(self.read(self.tensors[name])).reshape(-1)
                made.input[place] = self.listed(self.store(f"{name}/flat", flat))
        self.nodes.append(made)

    def _add_bias(self) -> None:
        """Append `logits`: each source's rows with that source's bias."""
        scores, at = _named("logits"), "/shortlist"
        rest = self.store(f"{at}/rest", np.array([-1], np.int64))
        shape = self.op("Shape", [scores], f"{at}/Shape")
        length = self.op("Shape", [LIST], f"{at}/Length")
        sources = self.op("Shape", ["source_lengths"], f"{at}/Sources")
        grouped = self.op("Concat", [sources, rest, length], f"{at}/Grouped", axis=0)
        by_source = self.op("Reshape", [scores, grouped], f"{at}/BySource")
        biased = self.op("Add", [by_source, BIAS], f"{at}/Add")
        self.op("Reshape", [biased, shape], f"{at}/Rows", "logits")

    def _declare(self) -> None:
        graph = self.model.graph
        bias = (_rows(graph, "source_lengths"), 1, LENGTH)
        graph.input.append(helper.make_tensor_value_info(LIST, TensorProto.INT64, [LENGTH]))
        graph.input.append(helper.make_tensor_value_info(BIAS, TensorProto.FLOAT, bias))
        for output in graph.output:
            if output.name == "logits":
                output.type.tensor_type.shape.dim[-1].Clear()
                output.type.tensor_type.shape.dim[-1].dim_param = LENGTH
        del graph.value_info[:]  # whose shapes may be those of the whole vocabulary

    def constant(self, node: onnx.NodeProto, place: int, rank: int) -> TensorProto:
        """Return a constant that a node of the head reads.

        Raises:
            StageError: It is none, or has another rank.
        """
        tensor = self.tensors.get(node.input[place])
        if tensor is None or len(tensor.dims) != rank:
            name = node.name or node.op_type
            raise StageError(f"the head {name} reads no table of constants; {_WAY_OUT}")
        return tensor

    def listed(self, name: str) -> str:
        """Append the rows of a constant that the list names."""
        return self.op("Gather", [name, LIST], f"/shortlist/{name}", axis=0)

    def rows_of(self, tensor: TensorProto) -> str:
        """Store a matrix (E, V) as the table (V, E); return its name."""
        turned = np.ascontiguousarray(read_weight(tensor, self.folder).T)
        return self.store(f"{tensor.name}/table", turned)

    def float_product(self, x: str, table: str, y: str) -> None:
        """Append y = x · tableᵀ for a table (N, E) of floats.

        A row of zeros goes with the others: MLAS adds up a lone row in another order, and an answer
        would depend on its company.
        """
        at = "/shortlist/product"
        one, rest, first = (self.store(f"{at}/{n}", np.array([n], np.int64)) for n in (1, -1, 0))
        width = self.op("Shape", [table], f"{at}/Width", start=1, end=2)
        wide = self.op("Concat", [rest, width], f"{at}/Wide", axis=0)
        flat = self.op("Reshape", [x, wide], f"{at}/Flat")
        lone = self.op("Concat", [one, width], f"{at}/Lone", axis=0)
        zeros = self.op("ConstantOfShape", [lone], f"{at}/Zeros")
        more = self.op("Concat", [flat, zeros], f"{at}/More", axis=0)
        name = f"{at}/FusedMatMul"
        self.nodes.append(
            helper.make_node(
                "FusedMatMul", [more, table], [name], name=name, domain=MICROSOFT, transB=1
            )
        )
        self.parted(self.op("Slice", [name, first, rest, first], f"{at}/Fewer"), x, y)

    def parted(self, flat: str, x: str, y: str) -> None:
        """Append y: the rows of a product, (…, N), in the shape of x, (…, E)."""
        at = "/shortlist/parted"
        rest = self.store(f"{at}/rest", np.array([-1], np.int64))
        outer = self.op("Shape", [x], f"{at}/Outer", start=0, end=-1)
        shape = self.op("Concat", [outer, rest], f"{at}/Shape", axis=0)
        self.op("Reshape", [flat, shape], f"{at}/Reshape", y)


def _rows(graph: onnx.GraphProto, name: str) -> str:
    """Return what an input's first axis is called."""
    value = next(value for value in graph.input if value.name == name)
    return str(value.type.tensor_type.shape.dim[0].dim_param)


def _named(output: str) -> str:
    """Return what a value of the head is called now: the logits get a bias yet."""
    return "/shortlist/logits" if output == "logits" else output


def _fused(w: _Writer, node: onnx.NodeProto, y: str) -> None:
    """x·Wᵀ of a table (V, E) of floats."""
    if not is_by_rows(node):
        raise StageError(f"the head {node.name} is scaled or turned; {_WAY_OUT}")
    table = w.constant(node, 1, 2).name
    w.float_product(node.input[0], w.listed(table), y)


def _matmul(w: _Writer, node: onnx.NodeProto, y: str) -> None:
    """x·W of a matrix (E, V) of floats."""
    maker = w.makers.get(node.input[1])
    turned = maker is not None and maker.op_type == "Transpose"
    table = w.constant(maker, 0, 2).name if turned else w.rows_of(w.constant(node, 1, 2))
    w.float_product(node.input[0], w.listed(table), y)


def _gemm(w: _Writer, node: onnx.NodeProto, y: str) -> None:
    """QGemm of uint8 rows with a table (V, E) of int8."""
    made = onnx.NodeProto()
    made.CopyFrom(node)
    made.output[0] = y
    # Integers, scales, zero points, and a bias in steps if there is one.
    for place, rank in ((3, 2), (4, 1), (5, 1), (6, 1)):
        if place < len(node.input) and node.input[place]:
            made.input[place] = w.listed(w.constant(node, place, rank).name)
    w.nodes.append(made)


def _to_float(w: _Writer, node: onnx.NodeProto, y: str) -> None:
    """MatMulIntegerToFloat of uint8 rows with a matrix (E, V) of int8, with or without a bias."""
    x, _, scale, _, zero, zeros, bias = [*node.input, "", "", ""][:7]
    if zeros:
        raise StageError(f"the head {node.name} has zero points for its weights; {_WAY_OUT}")
    matrix = w.constant(node, 1, 2)
    size = matrix.dims[0]
    table, scales = w.listed(w.rows_of(matrix)), w.listed(w.constant(node, 3, 1).name)
    none = w.listed(w.store(f"{matrix.name}/zeros", np.zeros(w.vocabulary, np.int8)))
    wide = w.store("/shortlist/product/wide", np.array([-1, size], np.int64))
    flat = w.op("Reshape", [x, wide], "/shortlist/product/Flat")
    inputs = [flat, scale, zero, table, scales, none]
    product = w.op("QGemm", inputs, "/shortlist/product/QGemm", transB=1)
    if bias:
        added = w.listed(w.constant(node, 6, 1).name)
        product = w.op("Add", [product, added], "/shortlist/product/Add")
    w.parted(product, x, y)


def _blocks(w: _Writer, node: onnx.NodeProto, y: str) -> None:
    """MatMulNBits of floats with blocks of a table (V, E): the list's rows become floats."""
    stated = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    stored = []
    for place in range(1, len(node.input)):
        tensor = w.tensors[node.input[place]]
        flat = np.asarray(read_weight(tensor, w.folder)).reshape(w.vocabulary, -1)
        stored.append(w.store(f"{tensor.name}/table", flat))
    stated = {name: stated[name] for name in ("bits", "block_size", "K")}
    inner = stated.pop("K")
    inputs, name = [stored[0], LIST, *stored[1:]], "/shortlist/blocks"
    axes: dict[str, Any] = {"gather_axis": 0, "quantize_axis": 1, **stated}
    rows = w.op("GatherBlockQuantized", inputs, name, **axes)
    if w.tensors[node.input[1]].dims[1] * stated["block_size"] > inner:
        bounds = [w.store(f"{name}/{n}", np.array([n], np.int64)) for n in (0, inner, 1)]
        rows = w.op("Slice", [rows, *bounds], f"{name}/unpadded")
    w.float_product(node.input[0], rows, y)


_PRODUCTS: Mapping[str, Callable[[_Writer, onnx.NodeProto, str], None]] = {
    "FusedMatMul": _fused,
    "MatMul": _matmul,
    "QGemm": _gemm,
    "MatMulIntegerToFloat": _to_float,
    "MatMulNBits": _blocks,
}
# What may stand between the product and the logits: its first input that is computed is the way.
_FOLLOWING = frozenset({"Add", "Identity", "Mul", "Reshape"})
