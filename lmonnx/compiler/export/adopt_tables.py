"""Weights that a traced graph holds twice → once: equal ones, and a tied head beside its table.

torch's exporter turns a linear layer's matrix, and so parts a tied head from the embedding:

    MatMul(x, tableᵀ) = FusedMatMul(x, table, transB=1)
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from lmonnx.compiler.edits import drop_dead, rename_values
from lmonnx.compiler.graph import INLINE_BYTES, MICROSOFT, read_weight


def store_once(model: onnx.ModelProto, folder: Path) -> None:
    """Let every constant of a graph be stored once.

    Args:
        model: Is edited.
        folder: What its external weights are in.
    """
    rename_values(model.graph.node, _equal(model.graph, folder))
    _tie(model, folder)
    _look_up_ids(model.graph)
    drop_dead(model.graph)


def _look_up_ids(graph: onnx.GraphProto) -> None:
    """Let tables be looked up by input_ids themselves, not by a view of two axes, as OPT's is."""
    makers = {name: node for node in graph.node for name in node.output}
    for node in list(graph.node):
        if node.op_type == "Reshape" and node.input[0] == "input_ids":
            shape = makers.get(node.input[1])
            if shape is not None and shape.op_type == "Concat" and len(shape.input) == 2:
                rename_values(graph.node, {node.output[0]: "input_ids"})
                graph.node.remove(node)


def _equal(graph: onnx.GraphProto, folder: Path) -> dict[str, str]:
    """Return which constants are others bit by bit: name → the first's name."""
    alike: defaultdict[tuple[int, ...], list[TensorProto]] = defaultdict(list)
    for tensor in graph.initializer:
        alike[tensor.data_type, *tensor.dims].append(tensor)
    firsts: dict[bytes, str] = {}
    found: dict[str, str] = {}
    for tensors in alike.values():
        if len(tensors) == 1:
            continue
        for tensor in tensors:
            array = np.ascontiguousarray(read_weight(tensor, folder))
            if array.nbytes < INLINE_BYTES:
                break
            shape = repr((array.dtype.str, array.shape)).encode()
            digest = hashlib.sha256(array.reshape(-1).view(np.uint8).data)
            digest.update(shape)
            first = firsts.setdefault(digest.digest(), tensor.name)
            if first != tensor.name:
                found[tensor.name] = first
    return found


def _tie(model: onnx.ModelProto, folder: Path) -> None:
    """Let products by a turned table that is looked up too read the table."""
    graph = model.graph
    stored = {t.name: t for t in graph.initializer if t.data_type == TensorProto.FLOAT}
    tables = {
        node.input[0]: stored[node.input[0]]
        for node in graph.node
        if node.op_type == "Gather" and node.input[0] in stored
    }
    for node in graph.node:
        if node.op_type != "MatMul" or node.input[1] not in stored:
            continue
        weight = stored[node.input[1]]
        turned = list(reversed(weight.dims))
        for name, table in tables.items():
            if list(table.dims) == turned and len(turned) == 2 and _turns(weight, table, folder):
                node.op_type, node.domain = "FusedMatMul", MICROSOFT
                node.input[1] = name
                node.attribute.append(helper.make_attribute("transB", 1))
                break
    if all(opset.domain != MICROSOFT for opset in model.opset_import):
        model.opset_import.append(helper.make_opsetid(MICROSOFT, 1))


def _turns(weight: TensorProto, table: TensorProto, folder: Path) -> bool:
    return bool(np.array_equal(read_weight(weight, folder), read_weight(table, folder).T))
