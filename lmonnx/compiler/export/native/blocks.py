"""The parts that encoders share: each takes values of the graph and returns a new one.

Plain operators of opset 17 with stable names: onnxruntime fuses them at load, and the quantizer
finds every `MatMul` by the name of the torch module it came from.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from lmonnx.compiler.export.native.params import Params
from lmonnx.compiler.graph import GraphBuilder

# Added to a score it leaves nothing: exp(min - max) is 0 in float32.
MASKED = float(np.finfo(np.float32).min)


@dataclass(frozen=True, slots=True)
class Scope:
    """Where blocks write and read: the graph in the making and the checkpoint's tensors."""

    graph: GraphBuilder
    params: Params

    def op(self, op_type: str, *inputs: str, name: str, **attributes: object) -> str:
        """Append a node; see `GraphBuilder.op`."""
        return self.graph.op(op_type, *inputs, name=f"/{name}", **attributes)  # type: ignore[arg-type]

    def floats(self, value: float) -> str:
        """Return a float32 scalar constant."""
        return self.graph.const(value, np.float32)

    def ints(self, *values: int) -> str:
        """Return an int64 vector constant."""
        return self.graph.const(values, np.int64)


def linear(g: Scope, x: str, name: str, wide: int, out: int, *, bias: bool = True) -> str:
    """Return x·Wᵀ + b: (…, wide) → (…, out)."""
    weight = g.graph.weight(f"{name}.weight", g.params.transposed(f"{name}.weight", out, wide))
    y = g.op("MatMul", x, weight, name=f"{name}/MatMul")
    if not bias:
        return y
    return g.op("Add", y, vector(g, f"{name}.bias", out), name=f"{name}/Add")


def linear_row(g: Scope, x: str, name: str, wide: int, out: int) -> str:
    """Return x·Wᵀ + b of a head, one row a text: (B, wide) → (B, out).

    A Gemm, where an encoder's layers are MatMul: heads stay in float32 when layers are quantized.
    """
    weight = g.graph.weight(f"{name}.weight", g.params.transposed(f"{name}.weight", out, wide))
    return g.op("Gemm", x, weight, vector(g, f"{name}.bias", out), name=f"{name}/Gemm")


def vector(g: Scope, name: str, size: int) -> str:
    """Store a (size,) tensor of the checkpoint."""
    return g.graph.weight(name, g.params.read(name, size))


def layer_norm(g: Scope, x: str, name: str, size: int, epsilon: float) -> str:
    """Normalize over the last axis."""
    scale, bias = vector(g, f"{name}.weight", size), vector(g, f"{name}.bias", size)
    return g.op(
        "LayerNormalization", x, scale, bias, name=f"{name}/LayerNorm", axis=-1, epsilon=epsilon
    )


def embedding(g: Scope, ids: str, name: str, rows: int, size: int) -> str:
    """Look ids up in a (rows, size) table: (B, S) → (B, S, size)."""
    table = g.graph.weight(f"{name}.weight", g.params.read(f"{name}.weight", rows, size))
    return g.op("Gather", table, ids, name=f"{name}/Gather", axis=0)


def first_positions(g: Scope, ids: str, name: str, rows: int, size: int) -> str:
    """Return the first S rows of a position table: (S, size)."""
    table = g.graph.weight(f"{name}.weight", g.params.read(f"{name}.weight", rows, size))
    shape = g.op("Shape", ids, name=f"{name}/Shape", start=1, end=2)  # (1,) holds S
    return g.op("Slice", table, g.ints(0), shape, g.ints(0), name=f"{name}/Slice")


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


def post_norm_layer(
    g: Scope, x: str, mask: str, prefix: str, names: LayerNames, sizes: LayerSizes, *, rows: str
) -> str:
    """Return norm(y + ffn(y)), y = norm(q + attention(q, x)): (B, S, E) → (B, R, E).

    Args:
        g: Where to write.
        x: (B, S, E), all positions.
        mask: (B, 1, 1, S), added to the scores.
        prefix: The layer's prefix in the checkpoint.
        names: The modules below the prefix.
        sizes: The layer's sizes.
        rows: (B, R, E): the rows of `x` whose answer is wanted, `x` itself for all. A classifier
            reads only the first token, so its last layer computes only that row.

    Source:
        Vaswani et al., "Attention Is All You Need" (arXiv:1706.03762), section 3.
    """
    attended = self_attention(g, rows, x, mask, prefix, names, sizes)
    attended = linear(g, attended, prefix + names.attention_out, sizes.hidden, sizes.hidden)
    y = g.op("Add", attended, rows, name=f"{prefix}{names.attention_norm}/Residual")
    y = layer_norm(g, y, prefix + names.attention_norm, sizes.hidden, sizes.epsilon)
    inner = linear(g, y, prefix + names.ffn_in, sizes.hidden, sizes.intermediate)
    inner = ACTIVATIONS[sizes.activation](g, inner, f"{prefix}activation")
    out = linear(g, inner, prefix + names.ffn_out, sizes.intermediate, sizes.hidden)
    out = g.op("Add", out, y, name=f"{prefix}{names.ffn_norm}/Residual")
    return layer_norm(g, out, prefix + names.ffn_norm, sizes.hidden, sizes.epsilon)


def self_attention(
    g: Scope, rows: str, x: str, mask: str, prefix: str, names: LayerNames, sizes: LayerSizes
) -> str:
    """Return softmax(q·kᵀ/√D + mask)·v for H heads: (B, R, E) and (B, S, E) → (B, R, E)."""
    hidden, heads = sizes.hidden, sizes.heads
    scope = f"{prefix}attention"

    def split(value: str, name: str, perm: list[int]) -> str:
        projected = linear(g, value, prefix + name, hidden, hidden)
        shape = g.ints(0, 0, heads, hidden // heads)
        parts = g.op("Reshape", projected, shape, name=f"{prefix}{name}/Reshape")
        return g.op("Transpose", parts, name=f"{prefix}{name}/Transpose", perm=perm)

    q = split(rows, names.query, [0, 2, 1, 3])  # (B, H, R, D)
    k = split(x, names.key, [0, 2, 3, 1])  # (B, H, D, S)
    v = split(x, names.value, [0, 2, 1, 3])  # (B, H, S, D)
    scores = g.op("MatMul", q, k, name=f"{scope}/Scores")
    scaled = g.op("Mul", scores, g.floats(1 / math.sqrt(hidden // heads)), name=f"{scope}/Scale")
    masked = g.op("Add", scaled, mask, name=f"{scope}/Mask")
    probs = g.op("Softmax", masked, name=f"{scope}/Softmax", axis=-1)
    context = g.op("MatMul", probs, v, name=f"{scope}/Context")
    context = g.op("Transpose", context, name=f"{scope}/Transpose", perm=[0, 2, 1, 3])
    return g.op("Reshape", context, g.ints(0, 0, hidden), name=f"{scope}/Reshape")


def first_row(g: Scope, x: str, name: str) -> str:
    """Keep the first position: (B, S, E) → (B, 1, E)."""
    return g.op("Slice", x, g.ints(0), g.ints(1), g.ints(1), name=f"{name}/Slice")


def drop_axis(g: Scope, x: str, name: str) -> str:
    """Drop the position axis of a single row: (B, 1, E) → (B, E)."""
    return g.op("Squeeze", x, g.ints(1), name=f"{name}/Squeeze")


def _gelu(g: Scope, x: str, name: str) -> str:
    """x/2 · (1 + erf(x/√2))  (Hendrycks and Gimpel, arXiv:1606.08415)."""
    inner = g.op("Div", x, g.floats(math.sqrt(2)), name=f"{name}/Div")
    erf = g.op("Erf", inner, name=f"{name}/Erf")
    shifted = g.op("Add", erf, g.floats(1.0), name=f"{name}/Add")
    product = g.op("Mul", x, shifted, name=f"{name}/Mul")
    return g.op("Mul", product, g.floats(0.5), name=f"{name}/Half")


def _gelu_tanh(g: Scope, x: str, name: str) -> str:
    """x/2 · (1 + tanh(√(2/π) · (x + 0.044715·x³)))  (the same paper's approximation)."""
    cube = g.op("Pow", x, g.floats(3.0), name=f"{name}/Pow")
    small = g.op("Mul", cube, g.floats(0.044715), name=f"{name}/Mul")
    inner = g.op("Add", x, small, name=f"{name}/Add")
    inner = g.op("Mul", inner, g.floats(math.sqrt(2 / math.pi)), name=f"{name}/Scale")
    tanh = g.op("Tanh", inner, name=f"{name}/Tanh")
    shifted = g.op("Add", tanh, g.floats(1.0), name=f"{name}/Shift")
    product = g.op("Mul", x, shifted, name=f"{name}/Product")
    return g.op("Mul", product, g.floats(0.5), name=f"{name}/Half")


def _swish(g: Scope, x: str, name: str, beta: float = 1.0) -> str:
    scaled = x if beta == 1.0 else g.op("Mul", x, g.floats(beta), name=f"{name}/Beta")
    gate = g.op("Sigmoid", scaled, name=f"{name}/Sigmoid")
    return g.op("Mul", x, gate, name=f"{name}/Mul")


def _mish(g: Scope, x: str, name: str) -> str:
    tanh = g.op("Tanh", g.op("Softplus", x, name=f"{name}/Softplus"), name=f"{name}/Tanh")
    return g.op("Mul", x, tanh, name=f"{name}/Mul")


def _plain(op_type: str) -> Callable[[Scope, str, str], str]:
    return lambda g, x, name: g.op(op_type, x, name=f"{name}/{op_type}")


# transformers' ACT2FN, as far as encoders use it.
ACTIVATIONS: dict[str, Callable[[Scope, str, str], str]] = {
    "gelu": _gelu,
    "gelu_fast": _gelu_tanh,
    "gelu_new": _gelu_tanh,
    "gelu_pytorch_tanh": _gelu_tanh,
    "mish": _mish,
    "quick_gelu": lambda g, x, name: _swish(g, x, name, 1.702),
    "relu": _plain("Relu"),
    "sigmoid": _plain("Sigmoid"),
    "silu": _swish,
    "swish": _swish,
    "tanh": _plain("Tanh"),
}
