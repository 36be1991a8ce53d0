"""The layers of both stacks: each takes values of the graph and returns a new one."""

from __future__ import annotations

from collections.abc import Callable

from lmonnx.compiler.export.native.decoders.blocks import feed_forward, norm, path_of, rows_from
from lmonnx.compiler.export.native.scope import Scope
from lmonnx.compiler.export.native.seq2seq import attention
from lmonnx.compiler.export.native.seq2seq.plan import PositionTable, Stack

Part = Callable[[str], str]
Places = Callable[[Scope, str, PositionTable, int], str]


def embed(g: Scope, s: Stack, add_places: Places) -> str:
    """Return the vectors of words at their places: int64 (B, S) → (B, S, E)."""
    module = s.words[0]
    name = path_of(module)
    x = g.op("Gather", words(g, s), "input_ids", name=f"{name}/Gather", axis=0)
    if s.words_factor != 1.0:
        x = g.op("Mul", x, g.floats(s.words_factor), name=f"{name}/Scale")
    if s.positions is not None:
        x = add_places(g, x, s.positions, s.hidden)
    return norm(g, s, x, s.embedding_norm, s.hidden) if s.embedding_norm else x


def words(g: Scope, s: Stack) -> str:
    """Store a stack's table of words: (V, E)."""
    name = f"{s.words[0]}.weight"
    if name not in g.graph.initializers:
        found = next((m for m in s.words if g.params.has(f"{m}.weight")), s.words[0])
        g.graph.weight(name, g.params.read(f"{found}.weight", s.vocabulary, s.hidden))
    return name


def encoder_layer(g: Scope, s: Stack, index: int, x: str, added: str) -> str:
    """Return a layer of the encoder: (G, S, E) → the same; `added` goes to the scores."""
    prefix, m = f"{s.layers}.{index}.", s.modules

    def attend(y: str) -> str:
        seen = attention.read_source(g, s, prefix, y, added)
        return attention.project_out(g, seen, prefix + m.out, s.heads, s.heads.size)

    x = _residual(g, s, x, prefix + m.attention_norm, attend)
    return _residual(g, s, x, prefix + m.ffn_norm, lambda y: feed_forward(g, s, prefix, y))


def decoder_layer(
    g: Scope, s: Stack, index: int, x: str, added: str, shapes: tuple[str, str], first: str = ""
) -> str:
    """Return a layer of the decoder: (rows, Q, E) → (rows, R, E).

    Args:
        g: Where to write.
        s: The decoder.
        index: Which layer.
        x: (rows, Q, E).
        added: What goes to the scores of self attention; "" is nothing.
        shapes: See `attention.read_cross`.
        first: The first of the R positions that are wanted; "" keeps all.
    """
    prefix, m = f"{s.layers}.{index}.", s.modules
    scope = path_of(f"{s.layers}.{index}")

    def attend(y: str) -> str:
        seen = attention.read_answer(g, s, index, y, added)
        if first:
            seen = rows_from(g, seen, first, f"{scope}/attended")
        return attention.project_out(g, seen, prefix + m.out, s.heads, s.heads.filled)

    def read(y: str) -> str:
        seen = attention.read_cross(g, s, index, y, shapes)
        return attention.project_out(g, seen, prefix + m.cross_out, s.heads, s.heads.filled)

    def keep(y: str) -> str:
        return rows_from(g, y, first, f"{scope}/residual") if first else y

    x = _residual(g, s, x, prefix + m.attention_norm, attend, keep)
    x = _residual(g, s, x, prefix + m.cross_norm, read)
    return _residual(g, s, x, prefix + m.ffn_norm, lambda y: feed_forward(g, s, prefix, y))


def _residual(g: Scope, s: Stack, x: str, module: str, part: Part, keep: Part = lambda x: x) -> str:
    """Return x + part(norm(x)), or norm(x + part(x)); `keep` drops rows of x that part drops."""
    given = norm(g, s, x, module, s.hidden) if s.norm_first else x
    given = part(given)
    y = g.op("Add", keep(x), given, name=f"{path_of(module)}/Residual")
    return y if s.norm_first else norm(g, s, y, module, s.hidden)
