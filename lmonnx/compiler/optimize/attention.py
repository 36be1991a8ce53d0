"""Which products are an attention's, and which of them still have their scale beside them."""

from __future__ import annotations

from collections.abc import Iterable

import onnx
from onnx import TensorProto

from lmonnx.compiler.edits import constant_values

_PRODUCTS = frozenset({"MatMul", "FusedMatMul"})
_MOVES = frozenset({"Reshape", "Transpose", "Squeeze", "Unsqueeze", "Identity", "Add"})
# What a scale is computed by, of constants and of the sizes that Shape gives.
_ARITHMETIC = frozenset({
    "Cast", "Div", "Gather", "Identity", "Mul", "Pow", "Reciprocal", "Shape", "Slice", "Sqrt",
    "Squeeze", "Unsqueeze",
})  # fmt: skip


def count_attentions(model: onnx.ModelProto) -> int:
    """Count every Softmax but those over a product with weights, as ConvBERT's of its kernels."""
    graph = model.graph
    makers = {name: node for node in graph.node for name in node.output}
    fixed = constant_values(graph)
    found = 0
    for node in graph.node:
        if node.op_type != "Softmax":
            continue
        maker = makers.get(node.input[0])
        while maker is not None and maker.op_type in _MOVES:
            free = [name for name in maker.input if name not in fixed]
            data = [maker.input[0]] if maker.op_type != "Add" else free
            maker = makers.get(data[0]) if len(data) == 1 else None
        of_weights = (
            maker is not None and maker.op_type in {"MatMul", "Gemm"} and maker.input[1] in fixed
        )
        found += not of_weights
    return found


def loose_scales(model: onnx.ModelProto) -> list[str]:
    """Name the products of two computed values with a Mul or Div by one number beside them."""
    graph = model.graph
    makers = {name: node for node in graph.node for name in node.output}
    weights = {t.name for t in graph.initializer}
    picks = {TensorProto.INT32, TensorProto.INT64}  # of sizes
    single = {
        t.name for t in graph.initializer if t.data_type in picks or all(d == 1 for d in t.dims)
    }
    numbers = _numbers(single, graph.node)
    products = {
        node.output[0]: node
        for node in graph.node
        if node.op_type in _PRODUCTS and not weights & set(node.input)
    }
    scaled = {
        node.output[0]: {name for name in node.input if name not in numbers}
        for node in graph.node
        if node.op_type in {"Mul", "Div"} and numbers & set(node.input)
    }
    after = {name for values in scaled.values() for name in values}
    return [
        name
        for name, node in products.items()
        if name in after or any(_unturned(value, makers) in scaled for value in node.input)
    ]


def _unturned(value: str, makers: dict[str, onnx.NodeProto]) -> str:
    maker = makers.get(value)
    return maker.input[0] if maker is not None and maker.op_type == "Transpose" else value


def _numbers(names: set[str], nodes: Iterable[onnx.NodeProto]) -> set[str]:
    """Return names, and what arithmetic makes of nothing else; a Shape is of sizes alone."""
    found = set(names)
    for node in nodes:
        if node.op_type in _ARITHMETIC and (
            node.op_type == "Shape" or found.issuperset(filter(None, node.input))
        ):
            found.update(node.output)
    return found
