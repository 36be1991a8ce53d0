"""A scale goes through the transposition that stands between it and the product, and into it.

    MatMul(q, Transpose(k / c)) = FusedMatMul(q, Transpose(k), alpha = 1/c)

onnxruntime fuses a scale only where it stands at the product, and moves transpositions between the
two: so it leaves that of DeBERTa's queries of distances.
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx
from onnx import TensorProto, helper, numpy_helper

from lmonnx.compiler.graph import MICROSOFT
from lmonnx.compiler.quantize.writer import readers_of


def take_in_scales(model: onnx.ModelProto) -> int:
    """Take constant scales of turned factors into their products, weights' excepted.

    Returns:
        How many were taken in.
    """
    graph = model.graph
    makers = {name: node for node in graph.node for name in node.output}
    readers = readers_of(graph)
    constants = {tensor.name: tensor for tensor in graph.initializer}
    gone: list[onnx.NodeProto] = []
    for node in graph.node:
        if node.op_type not in {"MatMul", "FusedMatMul"} or constants.keys() & set(node.input):
            continue
        for value in node.input:
            turned = makers.get(value)
            if turned is None or turned.op_type != "Transpose" or len(readers[value]) > 1:
                continue
            scaled = makers.get(turned.input[0])
            factor = _factor(scaled, constants)
            if scaled is None or factor is None or len(readers[scaled.output[0]]) > 1:
                continue
            turned.input[0] = next(name for name in scaled.input if name not in constants)
            _multiply(node, factor)
            gone.append(scaled)
    kept = [node for node in graph.node if node not in gone]
    del graph.node[:]
    graph.node.extend(kept)
    return len(gone)


def _factor(node: onnx.NodeProto | None, constants: Mapping[str, onnx.TensorProto]) -> float | None:
    """Return what a node multiplies by, if it is one constant number."""
    if node is None or node.op_type not in {"Mul", "Div"}:
        return None
    # A number divided by a value is no scale.
    factors = node.input[1:] if node.op_type == "Div" else node.input
    tensor = next((constants[name] for name in factors if name in constants), None)
    if (
        tensor is None
        or tensor.data_type != TensorProto.FLOAT
        or list(tensor.dims) not in ([], [1])
    ):
        return None
    number = float(numpy_helper.to_array(tensor).item())
    if node.op_type == "Mul":
        return number
    return 1 / number if number else None


def _multiply(product: onnx.NodeProto, factor: float) -> None:
    stated = {a.name: helper.get_attribute_value(a) for a in product.attribute}
    stated["alpha"] = stated.get("alpha", 1.0) * factor
    del product.attribute[:]
    product.attribute.extend(helper.make_attribute(name, v) for name, v in stated.items())
    product.op_type, product.domain = "FusedMatMul", MICROSOFT
