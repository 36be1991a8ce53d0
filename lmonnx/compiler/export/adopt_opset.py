"""Graphs of opsets 11 to 16 → 17, whose operators the rewritten graphs use.

From 13 on only types and attributes were added, whose defaults are what was before. 13 itself took
axes from attributes to inputs, and let Softmax see its axis alone, which is the same of the last.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import numpy_helper

from lmonnx.compiler.edits import subgraphs
from lmonnx.compiler.graph import OPSET
from lmonnx.errors import UnsupportedError

OLDEST = 11
_AXES_IN_INPUTS = 13
_TAKEN = {"ReduceSum": "axes", "Split": "split", "Squeeze": "axes", "Unsqueeze": "axes"}
_SOFTMAX = frozenset({"Hardmax", "LogSoftmax", "Softmax"})
_CHANGED = frozenset({"BatchNormalization", "Dropout"})  # in more than that


def raise_opset(model: onnx.ModelProto, where: str) -> None:
    """Let a graph be of opset 17, if it is of an older one.

    Raises:
        UnsupportedError: It is of one before 11, or has an operator that cannot be taken over.
    """
    entry = next(each for each in model.opset_import if each.domain in {"", "ai.onnx"})
    if entry.version >= OPSET:
        return
    nodes = list(_nodes(model.graph))
    changed = {node.op_type for node in nodes} & _CHANGED
    if entry.version < OLDEST or changed:
        said = f"has {min(changed)} and " if changed else ""
        raise UnsupportedError(
            f"{where} {said}is of opset {entry.version}, which cannot be raised to {OPSET}; export "
            "the model from its checkpoint instead"
        )
    if entry.version < _AXES_IN_INPUTS:
        for node in nodes:
            _take_axes(model.graph, node)
    entry.version = OPSET


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Yield the nodes of a graph and of the graphs inside it."""
    yield from graph.node
    for inner in subgraphs(graph.node):
        yield from _nodes(inner)


def _take_axes(graph: onnx.GraphProto, node: onnx.NodeProto) -> None:
    """Give a node the form that it has from opset 13 on."""
    stated = {each.name: each for each in node.attribute}
    if node.op_type in _SOFTMAX and "axis" not in stated:
        node.attribute.append(onnx.helper.make_attribute("axis", 1))
    name = _TAKEN.get(node.op_type, "")
    if name not in stated:
        return
    array = np.array(stated[name].ints, np.int64)
    value = f"/opset/{'_'.join(map(str, array))}"
    if all(tensor.name != value for tensor in graph.initializer):
        graph.initializer.append(numpy_helper.from_array(array, value))
    node.input.append(value)
    node.attribute.remove(stated[name])
