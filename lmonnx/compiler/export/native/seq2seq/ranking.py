"""The best tokens of each row, in the graph: numpy takes a whole decoder step to find them."""

from __future__ import annotations

import numpy as np

from lmonnx.compiler.export.native.scope import Scope
from lmonnx.compiler.graph import OPSET
from lmonnx.compiler.ranking import ranked_outputs, ranking_branches


def rank(g: Scope, vocabulary: int, *, opset: int = OPSET) -> None:
    """Append `top_logprobs` and `top_ids`, of `logits` (rows, R, V): (rows, R, k) each.

    k is `top_k`, at most V; where it is 0 nothing is computed.
    """
    wanted = g.op("Greater", "top_k", g.graph.const(0, np.int64), name="ranking/Greater")
    outputs = ranked_outputs()
    g.op(
        "If",
        wanted,
        name="ranking/If",
        outputs=[output.name for output in outputs],
        **ranking_branches(vocabulary, opset),
    )
    g.graph.outputs.extend(outputs)
