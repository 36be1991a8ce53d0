"""The best tokens of each row among those of a list, in the graph."""

from __future__ import annotations

import onnx
from onnx import TensorProto

from lmonnx.compiler.ranking import rank_constant, rank_node
from lmonnx.errors import StageError
from lmonnx.runtime.generate.shortlist import INPUTS


def rank_listed(node: onnx.NodeProto) -> onnx.NodeProto:
    """Return the `If` that ranks, for logits (rows, R, N) of a list.

    The probabilities' sum is in float64: how many others stand in the list, and where, then changes
    no digit of a score. `top_ids` are the model's, as without a list.

    Raises:
        StageError: The node is none that lmonnx writes.
    """
    made = onnx.NodeProto()
    made.CopyFrom(node)
    branches = [a.g for a in made.attribute if a.name == "then_branch"]
    if made.op_type != "If" or not branches:
        raise StageError("the decoder ranks tokens in another way; export the checkpoint again")
    best = branches[0]
    names = [output.name for output in best.output]
    del best.node[:]
    best.node.extend(_best(*names))
    return made


def _best(logprobs: str, ids: str) -> list[onnx.NodeProto]:
    """Return the nodes of the branch: what they make is called so."""
    listed = INPUTS[0]
    return [
        rank_constant("best_flat", [1]),
        rank_constant("best_zero", [0]),
        rank_constant("best_last", [-1]),
        rank_node("Shape", [listed], ["best_most"]),
        rank_node("Reshape", ["top_k", "best_flat"], ["best_asked"]),
        rank_node("Min", ["best_asked", "best_most"], ["best_count"]),
        rank_node("TopK", ["logits", "best_count"], ["best_logits", "best_columns"], axis=-1),
        rank_node("Gather", [listed, "best_columns"], [ids]),
        rank_node(
            "Slice", ["best_logits", "best_zero", "best_flat", "best_last"], ["best_highest"]
        ),
        rank_node("Sub", ["logits", "best_highest"], ["best_below"]),
        rank_node("Exp", ["best_below"], ["best_weights"]),
        rank_node("Cast", ["best_weights"], ["best_exact"], to=TensorProto.DOUBLE),
        rank_node("ReduceSum", ["best_exact", "best_last"], ["best_sum"], keepdims=1),
        rank_node("Log", ["best_sum"], ["best_log"]),
        rank_node("Cast", ["best_log"], ["best_left"], to=TensorProto.FLOAT),
        rank_node("Sub", ["best_logits", "best_highest"], ["best_lower"]),
        rank_node("Sub", ["best_lower", "best_left"], [logprobs]),
    ]
