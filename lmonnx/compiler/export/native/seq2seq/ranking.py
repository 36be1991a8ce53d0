"""The best tokens of each row, in the graph: numpy takes a whole decoder step to find them."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from lmonnx.compiler.export.native.scope import Scope

_SHAPE = ("rows", "kept_length", "top_k")
_OUTPUTS = tuple(
    helper.make_tensor_value_info(name, dtype, _SHAPE)
    for name, dtype in (("top_logprobs", TensorProto.FLOAT), ("top_ids", TensorProto.INT64))
)


def rank(g: Scope, vocabulary: int) -> None:
    """Append `top_logprobs` and `top_ids`, of `logits` (rows, R, V): (rows, R, k) each.

    k is `top_k`, at most V; where it is 0 nothing is computed. The branches have no weights, since
    no stage looks for any there.
    """
    wanted = g.op("Greater", "top_k", g.graph.const(0, np.int64), name="ranking/Greater")
    g.op(
        "If",
        wanted,
        name="ranking/If",
        outputs=[output.name for output in _OUTPUTS],
        then_branch=_best(vocabulary),
        else_branch=_none(),
    )
    g.graph.outputs.extend(_OUTPUTS)


def _best(vocabulary: int) -> onnx.GraphProto:
    """Return the branch that ranks.

    LogSoftmax, though it writes all V: onnxruntime's ReduceLogSumExp takes eight times as long.
    """
    names = [f"best_{output.name}" for output in _OUTPUTS]
    return _branch(
        "best",
        names,
        rank_constant("best_most", [vocabulary]),
        rank_constant("best_flat", [1]),
        rank_node("Reshape", ["top_k", "best_flat"], ["best_asked"]),
        rank_node("Min", ["best_asked", "best_most"], ["best_count"]),
        rank_node("LogSoftmax", ["logits"], ["best_scores"], axis=-1),
        rank_node("TopK", ["best_scores", "best_count"], names, axis=-1),
    )


def _none() -> onnx.GraphProto:
    """Return the branch that gives (rows, R, 0)."""
    names = [f"none_{output.name}" for output in _OUTPUTS]
    empty = [
        numpy_helper.from_array(np.zeros(1, dtype), name)
        for dtype, name in zip((np.float32, np.int64), names, strict=True)
    ]
    fills = [
        rank_node("ConstantOfShape", ["none_shape"], [name], value=value)
        for name, value in zip(names, empty, strict=True)
    ]
    return _branch(
        "none",
        names,
        rank_node("Shape", ["logits"], ["none_rows"], start=0, end=2),
        rank_constant("none_zero", [0]),
        rank_node("Concat", ["none_rows", "none_zero"], ["none_shape"], axis=0),
        *fills,
    )


def _branch(name: str, outputs: list[str], *nodes: onnx.NodeProto) -> onnx.GraphProto:
    declared = []
    for output, value in zip(outputs, _OUTPUTS, strict=True):
        declared.append(onnx.ValueInfoProto())
        declared[-1].CopyFrom(value)
        declared[-1].name = output
    return helper.make_graph(nodes, name, [], declared)


def rank_node(
    op_type: str, inputs: list[str], outputs: list[str], **attributes: object
) -> onnx.NodeProto:
    """Return a node of a branch, named after what it makes."""
    name = f"/ranking/{outputs[0].replace('_', '/', 1)}/{op_type}"
    return helper.make_node(op_type, inputs, outputs, name=name, **attributes)


def rank_constant(name: str, values: list[int]) -> onnx.NodeProto:
    """Return the node of int64 values, which a branch holds as no weights."""
    value = numpy_helper.from_array(np.array(values, np.int64), name)
    return rank_node("Constant", [], [name], value=value)
