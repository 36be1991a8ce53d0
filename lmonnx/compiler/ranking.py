"""What ranks the tokens of each row inside a graph, and which shapes it has."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

RANKED = "top_ids"
_NAMES = {"top_logprobs": TensorProto.FLOAT, RANKED: TensorProto.INT64}
_ROWS, _FLAT_ROWS = ("rows", "kept_length"), ("kept_rows",)
# Chunks are worth their nodes from so many tokens on, and where their length is between these.
_MANY = 4096
_LENGTHS = range(15, 513)
_USUAL = 9  # of beams: how many of a row's best are looked for
_REDUCED_BY_INPUT = 18  # the opset from which on ReduceMax takes its axes as an input


def ranked_outputs() -> list[onnx.ValueInfoProto]:
    """Return what a ranking of logits (rows, R, V) gives: (rows, R, k) each."""
    return _declared("", _ROWS)


def ranking_branches(vocabulary: int, opset: int) -> dict[str, onnx.GraphProto]:
    """Return the branches of the `If` that ranks `logits`, by what the node calls them.

    They have no weights, since no stage looks for any there.
    """
    return {
        "then_branch": _branch("best", _best(vocabulary, opset), _ROWS),
        "else_branch": _branch("none", _none(), _ROWS),
    }


def flatten_logits(graph: onnx.GraphProto) -> None:
    """Say that `logits` are (N, V), and what is ranked of them (N, k) each."""
    logits = next(output for output in graph.output if output.name == "logits")
    vocabulary = logits.type.tensor_type.shape.dim[-1].dim_value
    flat = helper.make_tensor_value_info("logits", TensorProto.FLOAT, (*_FLAT_ROWS, vocabulary))
    logits.CopyFrom(flat)
    ranking = next(node for node in graph.node if RANKED in node.output)
    named = {"then_branch": "best_", "else_branch": "none_"}
    inner = [(attribute.g, named[attribute.name]) for attribute in ranking.attribute]
    for each, prefix in [*inner, (graph, "")]:
        ranked = {value.name: value for value in _declared(prefix, _FLAT_ROWS)}
        for output in each.output:
            if output.name in ranked:
                output.CopyFrom(ranked[output.name])


def chunk_length(vocabulary: int) -> int:
    """Return the length of the chunks whose best are looked at first, a divisor of V; 0 for none.

    Few chunks are few to choose from, short ones are few tokens to look through afterwards.
    """
    fitting = [size for size in _LENGTHS if vocabulary % size == 0]
    if vocabulary < _MANY or not fitting:
        return 0
    return min(fitting, key=lambda size: vocabulary // size + _USUAL * size)


def _best(vocabulary: int, opset: int) -> list[onnx.NodeProto]:
    """Return the nodes that rank.

    LogSoftmax, though it writes all V: onnxruntime's ReduceLogSumExp takes eight times as long.
    The best of a row are in the chunks whose own best are the best: TopK, slow for many, sees few.
    """
    names = [f"best_{name}" for name in _NAMES]
    size = chunk_length(vocabulary)
    counted = [
        rank_constant("best_most", [vocabulary]),
        rank_constant("best_flat", [1]),
        rank_node("Reshape", ["top_k", "best_flat"], ["best_asked"]),
        rank_node("Min", ["best_asked", "best_most"], ["best_count"]),
        rank_node("LogSoftmax", ["logits"], ["best_scores"], axis=-1),
    ]
    if not size:
        return [*counted, rank_node("TopK", ["best_scores", "best_count"], names, axis=-1)]
    if opset < _REDUCED_BY_INPUT:
        highest = rank_node("ReduceMax", ["best_chunks"], ["best_highest"], axes=[2], keepdims=0)
    else:
        inputs = ["best_chunks", "best_inner"]
        highest = rank_node("ReduceMax", inputs, ["best_highest"], keepdims=0)
    return [
        *counted,
        rank_constant("best_chunked", [-1, vocabulary // size, size]),
        rank_constant("best_inner", [2]),
        rank_constant("best_chunk_count", [vocabulary // size]),
        rank_constant("best_size", [size]),
        rank_constant("best_joined", [0, -1]),
        rank_node("Reshape", ["best_scores", "best_chunked"], ["best_chunks"]),
        highest,
        rank_node("Min", ["best_count", "best_chunk_count"], ["best_few"]),
        rank_node("TopK", ["best_highest", "best_few"], ["best_least", "best_which"], axis=-1),
        # In their order, so that of a tie the lower id stays first.
        rank_node(
            "TopK", ["best_which", "best_few"], ["best_kept", "best_order"], axis=-1, largest=0
        ),
        rank_node("Unsqueeze", ["best_kept", "best_inner"], ["best_places"]),
        rank_node("GatherND", ["best_chunks", "best_places"], ["best_found"], batch_dims=1),
        rank_node("Reshape", ["best_found", "best_joined"], ["best_row"]),
        rank_node("TopK", ["best_row", "best_count"], ["best_values", "best_at"], axis=-1),
        rank_node("Div", ["best_at", "best_size"], ["best_chunk"]),
        rank_node("Mod", ["best_at", "best_size"], ["best_rest"]),
        rank_node("GatherElements", ["best_kept", "best_chunk"], ["best_own"], axis=1),
        rank_node("Mul", ["best_own", "best_size"], ["best_first"]),
        rank_node("Add", ["best_first", "best_rest"], ["best_tokens"]),
        rank_node("Shape", ["logits"], ["best_outer"], start=0, end=-1),
        rank_node("Concat", ["best_outer", "best_count"], ["best_shape"], axis=0),
        rank_node("Reshape", ["best_values", "best_shape"], names[:1]),
        rank_node("Reshape", ["best_tokens", "best_shape"], names[1:]),
    ]


def _none() -> list[onnx.NodeProto]:
    """Return the nodes that give no tokens for every row."""
    empty = [
        (f"none_{name}", numpy_helper.from_array(np.zeros(1, dtype), f"none_{name}"))
        for name, dtype in zip(_NAMES, (np.float32, np.int64), strict=True)
    ]
    return [
        rank_node("Shape", ["logits"], ["none_rows"], start=0, end=-1),
        rank_constant("none_zero", [0]),
        rank_node("Concat", ["none_rows", "none_zero"], ["none_shape"], axis=0),
        *(rank_node("ConstantOfShape", ["none_shape"], [n], value=value) for n, value in empty),
    ]


def _declared(prefix: str, rows: tuple[str, ...]) -> list[onnx.ValueInfoProto]:
    return [
        helper.make_tensor_value_info(f"{prefix}{name}", dtype, (*rows, "top_k"))
        for name, dtype in _NAMES.items()
    ]


def _branch(name: str, nodes: list[onnx.NodeProto], rows: tuple[str, ...]) -> onnx.GraphProto:
    return helper.make_graph(nodes, name, [], _declared(f"{name}_", rows))


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
