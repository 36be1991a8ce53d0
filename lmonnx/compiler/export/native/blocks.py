"""The parts that encoders share: each takes values of the graph and returns a new one.

Plain operators of opset 17 with stable names: onnxruntime fuses them at load, and the quantizer
finds every `MatMul` by the name of the torch module it came from.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from lmonnx.compiler.export.native.activations import ACTIVATIONS as ACTIVATIONS
from lmonnx.compiler.export.native.scope import Scope as Scope

# Added to a score it leaves nothing: exp(min - max) is 0 in float32.
MASKED = float(np.finfo(np.float32).min)


def linear(g: Scope, x: str, name: str, wide: int, out: int, *, bias: bool = True) -> str:
    """Return x·Wᵀ + b: (…, wide) → (…, out)."""
    y = g.op("MatMul", x, matrix(g, f"{name}.weight", wide, out), name=f"{name}/MatMul")
    if not bias:
        return y
    return g.op("Add", y, vector(g, f"{name}.bias", out), name=f"{name}/Add")


def linear_row(g: Scope, x: str, name: str, wide: int, out: int, *, bias: bool = True) -> str:
    """Return x·Wᵀ + b of a head, one row a text or a token: (rows, wide) → (rows, out).

    A Gemm, where an encoder's layers are MatMul: heads stay in float32 when layers are quantized.
    """
    weight = matrix(g, f"{name}.weight", wide, out)
    added = (vector(g, f"{name}.bias", out),) if bias else ()
    return g.op("Gemm", x, weight, *added, name=f"{name}/Gemm")


def matrix(g: Scope, name: str, wide: int, out: int) -> str:
    """Store torch's (out, wide) matrix as (wide, out); layers that share it read it once."""
    if name in g.graph.initializers:
        return name
    return g.graph.weight(name, g.params.transposed(name, out, wide))


def vector(g: Scope, name: str, size: int) -> str:
    """Store a (size,) tensor of the checkpoint."""
    return g.graph.weight(name, g.params.read(name, size))


def layer_norm(g: Scope, x: str, name: str, size: int, epsilon: float, *, bias: bool = True) -> str:
    """Normalize over the last axis."""
    vectors = [vector(g, f"{name}.{part}", size) for part in ("weight", "bias")[: 1 + bias]]
    return g.op(
        "LayerNormalization", x, *vectors, name=f"{name}/LayerNorm", axis=-1, epsilon=epsilon
    )


def embedding(g: Scope, ids: str, name: str, rows: int, size: int) -> str:
    """Look ids up in a (rows, size) table: (B, S) → (B, S, size)."""
    table = g.graph.weight(f"{name}.weight", g.params.read(f"{name}.weight", rows, size))
    return g.op("Gather", table, ids, name=f"{name}/Gather", axis=0)


def first_positions(g: Scope, ids: str, name: str, rows: int, size: int) -> str:
    """Return the first S rows of a position table: (S, size)."""
    table = g.graph.weight(f"{name}.weight", g.params.read(f"{name}.weight", rows, size))
    return g.op("Slice", table, g.ints(0), length(g, ids, name), g.ints(0), name=f"{name}/Slice")


def length(g: Scope, ids: str, name: str) -> str:
    """Return how many positions there are: (B, S) → (1,), which holds S."""
    return g.op("Shape", ids, name=f"{name}/Shape", start=1, end=2)


def split(g: Scope, x: str, name: str, *sizes: int, axis: int = -1) -> list[str]:
    """Cut an axis into parts of the given sizes."""
    parts = [f"/{g.turn}{name}/Split_output_{i}" for i in range(len(sizes))]
    g.op("Split", x, g.ints(*sizes), name=f"{name}/Split", outputs=parts, axis=axis)
    return parts


def additive_mask(g: Scope, attention_mask: str) -> str:
    """Turn 1 and 0 into 0 and the lowest float32: (B, S) → (B, 1, 1, S)."""
    kept = g.op("Cast", attention_mask, name="mask/Cast", to=1)
    dropped = g.op("Sub", g.floats(1.0), kept, name="mask/Sub")
    added = g.op("Mul", dropped, g.floats(MASKED), name="mask/Mul")
    return g.op("Unsqueeze", added, g.ints(1, 2), name="mask/Unsqueeze")


@dataclass(frozen=True, slots=True)
class LayerNames:
    """What an encoder calls the modules of one layer, below the layer's own prefix."""

    query: str
    key: str
    value: str
    attention_out: str
    attention_norm: str
    ffn_in: str
    ffn_out: str
    ffn_norm: str


@dataclass(frozen=True, slots=True)
class LayerSizes:
    """Sizes of an encoder layer: E, FFN units, H, and the norms' epsilon."""

    hidden: int
    intermediate: int
    heads: int
    epsilon: float
    activation: str

    @property
    def head(self) -> int:
        """Return D."""
        return self.hidden // self.heads


@dataclass(frozen=True, slots=True)
class Encoded:
    """What an encoder hands to a head: (B, S, E), or (B, E) where the head reads the first row."""

    x: str
    sizes: LayerSizes


# (g, rows, x, mask, prefix, names, sizes) → (B, R, E); see `self_attention`.
Attention = Callable[[Scope, str, str, str, str, LayerNames, LayerSizes], str]


def post_norm_layer(
    g: Scope,
    x: str,
    mask: str,
    prefix: str,
    names: LayerNames,
    sizes: LayerSizes,
    *,
    rows: str,
    attention: Attention | None = None,
) -> str:
    """Return norm(y + ffn(y)), y = norm(q + attention(q, x)): (B, S, E) → (B, R, E).

    Args:
        g: Where to write.
        x: (B, S, E), all positions.
        mask: (B, 1, 1, S) or (B, H, R, S), added to the scores.
        prefix: The layer's prefix in the checkpoint.
        names: The modules below the prefix.
        sizes: The layer's sizes.
        rows: (B, R, E): the rows of `x` whose answer is wanted, `x` itself for all.
        attention: Which attention; `self_attention` where none is given.

    Source:
        Vaswani et al., "Attention Is All You Need" (arXiv:1706.03762), section 3.
    """
    attended = (attention or self_attention)(g, rows, x, mask, prefix, names, sizes)
    attended = linear(g, attended, prefix + names.attention_out, sizes.hidden, sizes.hidden)
    y = g.op("Add", attended, rows, name=f"{prefix}{names.attention_norm}/Residual")
    y = layer_norm(g, y, prefix + names.attention_norm, sizes.hidden, sizes.epsilon)
    inner = linear(g, y, prefix + names.ffn_in, sizes.hidden, sizes.intermediate)
    inner = ACTIVATIONS[sizes.activation](g, inner, f"{prefix}activation")
    out = linear(g, inner, prefix + names.ffn_out, sizes.intermediate, sizes.hidden)
    out = g.op("Add", out, y, name=f"{prefix}{names.ffn_norm}/Residual")
    return layer_norm(g, out, prefix + names.ffn_norm, sizes.hidden, sizes.epsilon)


def encode(
    g: Scope,
    x: str,
    mask: str,
    count: int,
    prefix: str,
    names: LayerNames,
    sizes: LayerSizes,
    *,
    first: bool,
    first_mask: str | None = None,
) -> Encoded:
    """Return what the last of `count` layers gives: (B, S, E) → (B, S, E), or (B, E) if `first`.

    Args:
        g: Where to write.
        x: (B, S, E), the embeddings.
        mask: What is added to the scores.
        count: How many layers.
        prefix: What the layers' names start with, up to their number.
        names: The modules of a layer.
        sizes: The layers' sizes.
        first: Only the first row is wanted, so the last layer computes only that row.
        first_mask: The mask of the first query alone, where queries have masks of their own.
    """
    scope = f"{prefix.partition('.')[0]}.first"
    for layer in range(count):
        alone = first and layer == count - 1
        rows = first_row(g, x, scope) if alone else x
        added = first_mask or mask if alone else mask
        x = post_norm_layer(g, x, added, f"{prefix}{layer}.", names, sizes, rows=rows)
    return Encoded(drop_axis(g, x, scope) if first else x, sizes)


def word_and_position(g: Scope, vocabulary: int, positions: str, size: int, epsilon: float) -> str:
    """Return norm(word + position) of encoders without token types: (B, S, size)."""
    scope = "embeddings"
    words = embedding(g, "input_ids", f"{scope}.word_embeddings", vocabulary, size)
    x = g.op("Add", words, positions, name=f"{scope}/AddPositions")
    return layer_norm(g, x, f"{scope}.LayerNorm", size, epsilon)


def self_attention(
    g: Scope, rows: str, x: str, mask: str, prefix: str, names: LayerNames, sizes: LayerSizes
) -> str:
    """Return softmax(q·kᵀ/√D + mask)·v for H heads: (B, R, E) and (B, S, E) → (B, R, E)."""
    q = project_heads(g, rows, prefix + names.query, sizes, [0, 2, 1, 3])  # (B, H, R, D)
    k = project_heads(g, x, prefix + names.key, sizes, [0, 2, 3, 1])  # (B, H, D, S)
    v = project_heads(g, x, prefix + names.value, sizes, [0, 2, 1, 3])  # (B, H, S, D)
    return attend(g, q, k, v, mask, f"{prefix}attention", sizes)


def project_heads(g: Scope, x: str, name: str, sizes: LayerSizes, perm: list[int]) -> str:
    """Return x·Wᵀ + b cut into H heads, its axes (B, S, H, D) in the order of `perm`."""
    projected = linear(g, x, name, sizes.hidden, sizes.hidden)
    return cut_heads(g, projected, name, sizes, perm)


def cut_heads(g: Scope, x: str, name: str, sizes: LayerSizes, perm: list[int]) -> str:
    """Cut the last axis into heads: (B, S, E) → (B, S, H, D) in the order of `perm`."""
    parts = g.op("Reshape", x, g.ints(0, 0, sizes.heads, sizes.head), name=f"{name}/Reshape")
    return g.op("Transpose", parts, name=f"{name}/Transpose", perm=perm)


def attend(
    g: Scope,
    q: str,
    k: str,
    v: str,
    mask: str,
    scope: str,
    sizes: LayerSizes,
    *,
    scale: float | None = None,
    biases: Sequence[str] = (),
) -> str:
    """Return softmax(scale·q·k + biases + mask)·v, heads side by side: (B, R, E).

    Args:
        g: Where to write.
        q: (B, H, R, D).
        k: (B, H, D, S).
        v: (B, H, S, D).
        mask: (B, 1, 1, S) or (B, 1 or H, R, S).
        scope: What the nodes' names start with.
        sizes: The layer's sizes.
        scale: 1/√D where none is given.
        biases: (B, H, R, S) each, added to the scaled scores.
    """
    scale = 1 / math.sqrt(sizes.head) if scale is None else scale
    scores = g.op("MatMul", q, k, name=f"{scope}/Scores")
    scores = g.op("Mul", scores, g.floats(scale), name=f"{scope}/Scale")
    for index, bias in enumerate(biases):
        scores = g.op("Add", scores, bias, name=f"{scope}/Bias{index}")
    masked = g.op("Add", scores, mask, name=f"{scope}/Mask")
    probs = g.op("Softmax", masked, name=f"{scope}/Softmax", axis=-1)
    context = g.op("MatMul", probs, v, name=f"{scope}/Context")
    context = g.op("Transpose", context, name=f"{scope}/Transpose", perm=[0, 2, 1, 3])
    return g.op("Reshape", context, g.ints(0, 0, sizes.hidden), name=f"{scope}/Reshape")


def first_row(g: Scope, x: str, name: str) -> str:
    """Keep the first position: (B, S, E) → (B, 1, E)."""
    return g.op("Slice", x, g.ints(0), g.ints(1), g.ints(1), name=f"{name}/Slice")


def drop_axis(g: Scope, x: str, name: str) -> str:
    """Drop the position axis of a single row: (B, 1, E) → (B, E)."""
    return g.op("Squeeze", x, g.ints(1), name=f"{name}/Squeeze")
