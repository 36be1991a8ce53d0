"""Sizes that the weights fix are constants: then what is computed of them is one too, and fuses.

    Slice(Shape(x), [-1]) = [D]    of every x (…, D), though B and S are free

A graph traced from scaled_dot_product_attention reads the head size off the queries and multiplies
queries and keys by √(1/√D); DeBERTa's reads it off the keys. onnxruntime fuses a scale that is a
constant, and does not see that these are.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from lmonnx.compiler.optimize.shapes import infer_shapes

_FREE = -1  # among sizes: one that is known at run time only
Sizes = NDArray[np.int64]


def fix_sizes(model: onnx.ModelProto) -> int:
    """Put constants in the place of the nodes that read fixed sizes off a value.

    Returns:
        How many nodes were replaced.
    """
    graph = model.graph
    # Sizes by the value that holds them: those that Shape gives, and what is picked of them.
    read = {
        name: np.array([d if isinstance(d, int) else _FREE for d in shape], np.int64)
        for name, shape in infer_shapes(model).items()
    }
    constants = _constants(graph)
    held: dict[str, Sizes] = {}
    for node in graph.node:
        sizes = _sizes(node, read, held, constants)
        if sizes is not None:
            held[node.output[0]] = sizes
    fixed = {name: sizes for name, sizes in held.items() if not (sizes == _FREE).any()}
    kept = [node for node in graph.node if not fixed.keys() & set(node.output)]
    del graph.node[:]
    graph.node.extend(kept)
    graph.initializer.extend(numpy_helper.from_array(s, name) for name, s in fixed.items())
    return len(fixed)


def _sizes(
    node: onnx.NodeProto,
    shapes: Mapping[str, Sizes],
    held: Mapping[str, Sizes],
    constants: Mapping[str, Sizes],
) -> Sizes | None:
    """Return the sizes that a node gives, if it reads a shape or picks from one."""
    if node.op_type == "Shape" and node.input[0] in shapes:
        stated = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        return shapes[node.input[0]][stated.get("start", 0) : stated.get("end", sys.maxsize)]
    if node.op_type not in {"Gather", "Slice"} or node.input[0] not in held:
        return None
    sizes, picks = held[node.input[0]], [constants.get(name) for name in node.input[1:]]
    known = [pick for pick in picks if pick is not None]
    if len(known) < len(picks):
        return None
    if node.op_type == "Gather":
        return np.asarray(sizes[known[0]])
    start, end, *_ = (int(pick.item()) for pick in known)  # a list of sizes has one axis
    return sizes[start : end : int(known[3].item()) if len(known) > 3 else 1]


def _constants(graph: onnx.GraphProto) -> dict[str, Sizes]:
    """Return the whole numbers that a graph holds, as initializers and as nodes."""
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        for attribute in node.attribute:
            if node.op_type == "Constant" and attribute.name == "value":
                tensors[node.output[0]] = attribute.t
    return {
        name: numpy_helper.to_array(tensor).astype(np.int64)
        for name, tensor in tensors.items()
        if tensor.data_type in {TensorProto.INT64, TensorProto.INT32}
        and tensor.data_location != TensorProto.EXTERNAL
    }
