"""A graph → the shape of every value, as far as its inputs and weights fix it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping

import onnx
from onnx import helper

# An axis that is free at run time has a name; where names are equal, so are the sizes.
Shape = tuple[int | str, ...]


def infer_shapes(model: onnx.ModelProto) -> dict[str, Shape]:
    """Return the shape of every value whose rank is known.

    What the graph itself states of shapes inside it and of its outputs is not believed: tools
    leave there what they saw of one batch.
    """
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    del bare.graph.value_info[:]
    for output in bare.graph.output:
        output.type.tensor_type.ClearField("shape")
    types: dict[str, int] = {}
    while True:
        graph = onnx.shape_inference.infer_shapes(bare, data_prop=True).graph
        values = (*graph.input, *graph.value_info, *graph.output)
        types |= {value.name: value.type.tensor_type.elem_type for value in values}
        shapes = {v.name: _shape(v) for v in values if v.type.tensor_type.HasField("shape")}
        solved = _solve_reshapes(bare.graph, shapes)
        if not solved:
            return shapes
        for name, shape in solved.items():
            stated = helper.make_tensor_value_info(name, types[name], shape)
            bare.graph.value_info.append(stated)


def _shape(value: onnx.ValueInfoProto) -> Shape:
    axes = enumerate(value.type.tensor_type.shape.dim)
    return tuple(
        d.dim_value if d.HasField("dim_value") else d.dim_param or f"{value.name}:{axis}"
        for axis, d in axes
    )


def _solve_reshapes(graph: onnx.GraphProto, shapes: Mapping[str, Shape]) -> dict[str, Shape]:
    """Return the shapes of Reshapes of which the numbers give what the -1 stands for.

    (B, S, E) as (B, S, H, -1) is (B, S, H, E/H); onnx leaves that open where B and S are.
    """
    solved: dict[str, Shape] = {}
    for node in graph.node:
        if node.op_type != "Reshape" or not {node.input[0], node.output[0]} <= shapes.keys():
            continue
        before, after = shapes[node.input[0]], shapes[node.output[0]]
        free, left = _names(before), _names(after)
        sizes, known = (math.prod(d for d in s if isinstance(d, int)) for s in (before, after))
        if free - left or (left - free).total() != 1 or not known or sizes % known:
            continue
        (name,) = left - free
        place = after.index(name)
        solved[node.output[0]] = (*after[:place], sizes // known, *after[place + 1 :])
    return solved


def _names(shape: Shape) -> Counter[str]:
    return Counter(d for d in shape if isinstance(d, str))
