"""Where the tokens of a call stand in their texts, as values of the graph."""

from __future__ import annotations

import numpy as np

from lmonnx.compiler.export.native.decoders.plan import Decoder
from lmonnx.compiler.export.native.scope import Scope

_INT32, _INT64 = 6, 7  # onnx.TensorProto's


def positions(g: Scope, d: Decoder) -> str:
    """Return each token's place in its text, the first's 0: (B, S) int64."""
    made = "/positions/Places"
    if made in g.graph.names:
        return f"{made}_output"
    if not d.cached:
        shape = g.op("Shape", "input_ids", name="positions/Shape2")
        return g.op("Expand", _in_order(g), shape, name=made[1:])
    last = g.op("Cast", "seqlens_k", name="positions/Cast", to=_INT64)
    last = g.op("Unsqueeze", last, g.ints(1), name="positions/Unsqueeze")  # (B, 1)
    before = g.op("Sub", _in_order(g), _length(g), name="positions/Sub")
    before = g.op("Add", before, g.graph.const(1, np.int64), name="positions/Before")  # -(S-1) … 0
    return g.op("Add", last, before, name=made[1:])


def read_lengths(g: Scope) -> None:
    """Make the attention's `seqlens_k` and `total_sequence_length` of `attention_mask`."""
    tokens = g.op("ReduceSum", "attention_mask", g.ints(1), name="lengths/Sum", keepdims=0)
    last = g.op("Sub", tokens, g.graph.const(1, np.int64), name="lengths/Sub")
    # A row of nothing but padding has no last token, and the kernel wants one.
    last = g.op("Max", last, g.graph.const(0, np.int64), name="lengths/Max")
    g.op("Cast", last, name="lengths/Cast", to=_INT32, outputs=["seqlens_k"])
    longest = g.op("Squeeze", _length(g), name="lengths/Squeeze")
    g.op("Cast", longest, name="lengths/Longest", to=_INT32, outputs=["total_sequence_length"])


def texts_first(g: Scope, x: str) -> str:
    """Turn each row until its text begins it, wherever its padding was: (B, S, E) → the same."""
    place = g.op("Add", _in_order(g), _begins(g), name="texts_first/Add")
    return _turned(g, x, place, "texts_first")


def texts_back(g: Scope, x: str) -> str:
    """Undo `texts_first`."""
    place = g.op("Sub", _in_order(g), _begins(g), name="texts_back/Sub")
    place = g.op("Add", place, _length(g), name="texts_back/Add")
    return _turned(g, x, place, "texts_back")


def _turned(g: Scope, x: str, place: str, name: str) -> str:
    """Return the vectors at places that count on from the row's end at its start."""
    place = g.op("Mod", place, _length(g), name=f"{name}/Mod")
    place = g.op("Unsqueeze", place, g.ints(2), name=f"{name}/Unsqueeze")
    return g.op("GatherND", x, place, name=f"{name}/GatherND", batch_dims=1)


def _begins(g: Scope) -> str:
    """Return where each row's text begins: (B, 1)."""
    if "/begins/ArgMax" in g.graph.names:
        return "/begins/ArgMax_output"
    mask = g.op("Cast", "attention_mask", name="begins/Cast", to=_INT32)
    return g.op("ArgMax", mask, name="begins/ArgMax", axis=1, keepdims=1)


def _in_order(g: Scope) -> str:
    """Return 0 … S - 1: (S,)."""
    if "/places/Range" in g.graph.names:
        return "/places/Range_output"
    size = g.op("Squeeze", _length(g), name="places/Squeeze")
    zero, one = (g.graph.const(value, np.int64) for value in (0, 1))
    return g.op("Range", zero, size, one, name="places/Range")


def _length(g: Scope) -> str:
    """Return S: (1,)."""
    if "/places/Shape" in g.graph.names:
        return "/places/Shape_output"
    return g.op("Shape", "input_ids", name="places/Shape", start=1, end=2)
