"""Which products of a graph can be quantized, and which stay as they are."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from onnx import helper

from lmonnx.compiler.edits import rename_values
from lmonnx.compiler.graph import load_graph

TABLE_INPUT = "input_ids"
FEW_COLUMNS = 64  # a product with fewer, at the end, is a head: cheap, and what its error costs
_VIEWS = frozenset({"Identity", "Reshape", "Split", "Squeeze", "Transpose", "Slice", "Gather"})
# The defaults of products that can transpose.
_PLAIN: Mapping[str, Mapping[str, Any]] = {
    "Gemm": {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 0},
    "FusedMatMul": {"alpha": 1.0, "transA": 0, "transB": 0, "transBatchA": 0, "transBatchB": 0},
}


@dataclass(frozen=True, slots=True)
class Layer:
    """A product with a constant matrix: `name` is its node's, `value` what flows into it.

    `rows` says that the matrix is stored as (N, K), as a table that is looked up is; `bias` is a
    vector that the node itself adds.
    """

    name: str
    value: str
    weight: str
    rows: bool = False
    bias: str = ""


def find_layers(model: onnx.ModelProto) -> tuple[Layer, ...]:
    """Return the layers that can be quantized, in the order of the graph.

    They are products by MatMul, and a Gemm or FusedMatMul to the logits of the whole vocabulary,
    whose weights are often the embedding table. A product to a few labels stays in float32, and
    one by MatMul with a matrix that others read by rows: integers have one scale a column.
    """
    shapes = {t.name: tuple(t.dims) for t in model.graph.initializer if t.data_type == 1}
    tables = {n.input[0] for n in model.graph.node if is_lookup(n)}
    vocabularies = {shapes[name][0] for name in tables if name in shapes}
    by_rows = tables | {n.input[1] for n in model.graph.node if is_by_rows(n)}
    heads = _heads(model, shapes)
    return tuple(
        _layer(node)
        for node in model.graph.node
        if len(node.input) > 1
        and len(shape := shapes.get(node.input[1], ())) == 2
        and (
            (_is_by_columns(node, by_rows) and node.output[0] not in heads)
            or (is_by_rows(node) and shape[0] in vocabularies)
        )
    )


def load_direct(path: Path) -> onnx.ModelProto:
    """Load a graph, without its weights, whose nodes read constants by their own names.

    In traced graphs layers that share a matrix read it through an Identity each, and only one of
    them would be seen to multiply it.
    """
    model = load_graph(path)
    graph = model.graph
    own = {tensor.name: tensor.name for tensor in graph.initializer}
    kept = {output.name for output in graph.output}
    nodes = []
    for node in graph.node:
        if node.op_type == "Identity" and node.input[0] in own and node.output[0] not in kept:
            own[node.output[0]] = own[node.input[0]]
        else:
            nodes.append(node)
    if len(nodes) < len(graph.node):
        rename_values(nodes, own)
        del graph.node[:]
        graph.node.extend(nodes)
    return model


def _layer(node: onnx.NodeProto) -> Layer:
    value, weight, *others = node.input
    rows = node.op_type != "MatMul"
    return Layer(node_name(node), value, weight, rows=rows, bias=others[0] if others else "")


def is_lookup(node: onnx.NodeProto) -> bool:
    """Say whether a node looks up the rows of the texts' tokens."""
    return bool(node.op_type == "Gather" and node.input[1] == TABLE_INPUT)


def _is_by_columns(node: onnx.NodeProto, by_rows: Collection[str]) -> bool:
    """Say whether a node is x·W, and W is not of those that are read by rows."""
    return bool(node.op_type == "MatMul" and node.input[1] not in by_rows)


def is_by_rows(node: onnx.NodeProto) -> bool:
    """Say whether a node is x·Wᵀ (+ b), without other factors."""
    stated = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    plain = _PLAIN.get(node.op_type)
    return plain is not None and {**plain, **stated} == {**plain, "transB": 1}


def _heads(model: onnx.ModelProto, shapes: Mapping[str, tuple[int, ...]]) -> set[str]:
    """Return the products of a few columns that, with their bias, are the graph's outputs."""
    makers = {name: node for node in model.graph.node for name in node.output}
    found: set[str] = set()
    waiting = [value.name for value in model.graph.output]
    while waiting:
        node = makers.get(waiting.pop())
        if node is None:
            continue
        if node.op_type in _VIEWS:
            waiting.append(node.input[0])
        sizes = [size for name in node.input for size in shapes.get(name, ())[-1:]]
        if node.op_type == "Add" and any(0 < size < FEW_COLUMNS for size in sizes):
            found.update(node.input)
    return found


def node_name(node: onnx.NodeProto) -> str:
    """Return what a node is called, or else what it makes."""
    return str(node.name or node.output[0])
