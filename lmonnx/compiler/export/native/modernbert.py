"""ModernBERT: norms before the parts, rotary positions, and windows between global layers.

Source:
    Warner et al., "Smarter, Better, Faster, Longer" (arXiv:2412.13663); transformers, `modernbert`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lmonnx.compiler.export.native import blocks
from lmonnx.compiler.export.native.blocks import Encoded, LayerSizes, Scope
from lmonnx.compiler.export.native.config import Config
from lmonnx.errors import StageError

# Of training, of heads, and of how torch computes; the last two are written by older versions and
# read by none.
_INERT = """
    initializer_cutoff_factor embedding_dropout mlp_dropout decoder_bias classifier_bias
    classifier_activation classifier_pooling deterministic_flash_attn sparse_prediction
    sparse_pred_ignore_index reference_compile repad_logits_with_grad layer_norm_eps
    position_embedding_type
    """.split()


@dataclass(frozen=True, slots=True)
class _Sizes(LayerSizes):
    """A layer's sizes, and which of its parts have a bias."""

    attention_bias: bool
    mlp_bias: bool
    norm_bias: bool


@dataclass(frozen=True, slots=True)
class _View:
    """What a layer sees: a mask, (B, 1, 1 or S, S), and its rotation, (S, 1, D/2) each."""

    mask: str
    cos: str
    sin: str


def encode_modernbert(g: Scope, config: Config, *, first: bool) -> Encoded:
    """Return ModernBertModel's last hidden states: (B, S) → (B, S, E), or (B, E) if `first`."""
    sizes = _read_sizes(config)
    layers = config.integer("num_hidden_layers")
    views = _views(g, config, sizes, layers)
    x = _embeddings(g, config, sizes)
    for layer in range(layers):
        x = _layer(g, x, views[layer], layer, sizes, first=first and layer == layers - 1)
    x = _norm(g, x, "final_norm", sizes)
    return Encoded(blocks.drop_axis(g, x, "encoder.first") if first else x, sizes)


def _read_sizes(config: Config) -> _Sizes:
    for name in ("is_decoder", "add_cross_attention", "is_encoder_decoder"):
        config.only(name, False)
    config.only("pruned_heads", {})
    config.inert(*_INERT)
    sizes = _Sizes(
        hidden=config.integer("hidden_size"),
        intermediate=config.integer("intermediate_size"),
        heads=config.divisor("num_attention_heads", "hidden_size"),
        epsilon=config.number("norm_eps", 1e-5),
        activation=config.choice("hidden_activation", blocks.ACTIVATIONS, "gelu"),
        attention_bias=config.flag("attention_bias", default=False),
        mlp_bias=config.flag("mlp_bias", default=False),
        norm_bias=config.flag("norm_bias", default=False),
    )
    if sizes.head % 2:
        raise StageError(
            f"config.json: hidden_size / num_attention_heads is {sizes.head}; rotary positions "
            "turn pairs, so it must be even"
        )
    return sizes


def _embeddings(g: Scope, config: Config, sizes: _Sizes) -> str:
    """Return norm(word): (B, S, E)."""
    config.integer("pad_token_id", 0, least=0)
    rows = config.integer("vocab_size")
    words = blocks.embedding(g, "input_ids", "embeddings.tok_embeddings", rows, sizes.hidden)
    return _norm(g, words, "embeddings.norm", sizes)


def _views(g: Scope, config: Config, sizes: _Sizes, layers: int) -> list[_View]:
    """Return each layer's view: every n-th sees all positions, the others a window."""
    every = config.integer("global_attn_every_n_layers", 3)
    window = config.integer("local_attention", 128, least=0)
    theta = config.number("global_rope_theta", 160000.0)
    null = config.is_null("local_rope_theta")
    local_theta = theta if null else config.number("local_rope_theta", 10000.0)
    positions = config.integer("max_position_embeddings")
    size = blocks.length(g, "input_ids", "positions")
    mask = blocks.additive_mask(g, "attention_mask")
    far = _View(mask, *_rotation(g, size, positions, sizes.head, theta))
    if all(layer % every == 0 for layer in range(layers)):
        return [far] * layers
    rotation = (far.cos, far.sin)
    if local_theta != theta:
        rotation = _rotation(g, size, positions, sizes.head, local_theta)
    near = _View(_window_mask(g, size, mask, window // 2), *rotation)
    return [near if layer % every else far for layer in range(layers)]


def _rotation(g: Scope, size: str, positions: int, head: int, theta: float) -> tuple[str, str]:
    """Return cos and sin of the first S positions' angles: (S, 1, D/2) each."""
    found = []
    for name, table in zip(("cos", "sin"), rotary_tables(positions, head, theta), strict=True):
        scope = f"rotary.{theta:g}.{name}"
        stored = g.graph.weight(scope, table[:, None])
        found.append(g.op("Slice", stored, g.ints(0), size, g.ints(0), name=f"{scope}/Slice"))
    return found[0], found[1]


def rotary_tables(
    positions: int, head: int, theta: float
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return cos and sin of position · θ^(-2i/D), i < D/2: (positions, D/2) each.

    The angles are rounded to float32 step by step, as torch rounds them: at position 8000 another
    order turns by 1e-4 more.

    Source:
        Su et al., "RoFormer" (arXiv:2104.09864), section 3.2.2.
    """
    exponents = (np.arange(0, head, 2, dtype=np.float32) / np.float32(head)).astype(np.float64)
    frequencies = np.float32(1) / np.power(theta, exponents).astype(np.float32)
    angles = np.arange(positions, dtype=np.float32)[:, None] * frequencies
    exact = angles.astype(np.float64)
    return np.cos(exact).astype(np.float32), np.sin(exact).astype(np.float32)


def _window_mask(g: Scope, size: str, mask: str, reach: int) -> str:
    """Mask also what is more than `reach` positions away: (B, 1, 1, S) → (B, 1, S, S).

    Made from S at run time: a table of all positions would be 256 MB for 8192.
    """
    scope = "window"
    count = g.op("Squeeze", size, g.ints(0), name=f"{scope}/Squeeze")
    zero, one = g.graph.const(0, np.int64), g.graph.const(1, np.int64)
    places = g.op("Range", zero, count, one, name=f"{scope}/Range")
    places = g.op("Cast", places, name=f"{scope}/Cast", to=1)
    column = g.op("Unsqueeze", places, g.ints(1), name=f"{scope}/Unsqueeze")
    apart = g.op("Sub", column, places, name=f"{scope}/Sub")  # (S, S)
    apart = g.op("Abs", apart, name=f"{scope}/Abs")
    near = g.op("LessOrEqual", apart, g.floats(float(reach)), name=f"{scope}/LessOrEqual")
    added = g.op("Where", near, g.floats(0.0), g.floats(blocks.MASKED), name=f"{scope}/Where")
    # Min, as two masks added would pass the lowest float32.
    return g.op("Min", mask, added, name=f"{scope}/Min")


def _layer(g: Scope, x: str, view: _View, layer: int, sizes: _Sizes, *, first: bool) -> str:
    """Return y + mlp(norm(y)), y = x + attention(norm(x)): (B, S, E) → (B, S or 1, E)."""
    prefix = f"layers.{layer}."
    normed = _norm(g, x, f"{prefix}attn_norm", sizes) if layer else x
    if first:
        x = blocks.first_row(g, x, f"{prefix}first")
        attended = _attend_from_first(g, normed, view, f"{prefix}attn", sizes)
    else:
        attended = _attend(g, normed, view, f"{prefix}attn", sizes)
    hidden, bias = sizes.hidden, sizes.attention_bias
    attended = blocks.linear(g, attended, f"{prefix}attn.Wo", hidden, hidden, bias=bias)
    y = g.op("Add", x, attended, name=f"{prefix}attn/Residual")
    out = _gated_mlp(g, _norm(g, y, f"{prefix}mlp_norm", sizes), f"{prefix}mlp", sizes)
    return g.op("Add", y, out, name=f"{prefix}mlp/Residual")


def _attend(g: Scope, x: str, view: _View, name: str, sizes: _Sizes) -> str:
    hidden, heads, head = sizes.hidden, sizes.heads, sizes.head
    fused = blocks.linear(g, x, f"{name}.Wqkv", hidden, 3 * hidden, bias=sizes.attention_bias)
    both, v = blocks.split(g, fused, f"{name}.Wqkv", 2 * hidden, hidden)
    turned = _rotated_heads(g, both, view, f"{name}.qk", 2 * heads, head)  # (B, 2H, S, D)
    q, k = blocks.split(g, turned, f"{name}.qk.heads", heads, heads, axis=1)
    k = g.op("Transpose", k, name=f"{name}.k/Transpose", perm=[0, 1, 3, 2])
    v = blocks.cut_heads(g, v, f"{name}.v", sizes, [0, 2, 1, 3])
    return blocks.attend(g, q, k, v, view.mask, name, sizes)


def _attend_from_first(g: Scope, x: str, view: _View, name: str, sizes: _Sizes) -> str:
    """Attend from the first position alone, whose angle is 0: (B, S, E) → (B, 1, E)."""
    hidden, heads, head = sizes.hidden, sizes.heads, sizes.head
    row = blocks.first_row(g, x, name)
    q = _part_of_fused(g, row, name, "query", slice(0, hidden), sizes)
    both = _part_of_fused(g, x, name, "key_value", slice(hidden, 3 * hidden), sizes)
    k, v = blocks.split(g, both, f"{name}.key_value", hidden, hidden)
    q = blocks.cut_heads(g, q, f"{name}.q", sizes, [0, 2, 1, 3])
    k = _rotated_heads(g, k, view, f"{name}.k", heads, head)
    k = g.op("Transpose", k, name=f"{name}.k.turned/Transpose", perm=[0, 1, 3, 2])
    v = blocks.cut_heads(g, v, f"{name}.v", sizes, [0, 2, 1, 3])
    ends = (g.ints(0), g.ints(1), g.ints(2))
    mask = g.op("Slice", view.mask, *ends, name=f"{name}.mask/Slice")  # (B, 1, 1, S)
    return blocks.attend(g, q, k, v, mask, name, sizes)


def _part_of_fused(g: Scope, x: str, name: str, part: str, cut: slice, sizes: _Sizes) -> str:
    """Return some columns of x·Wqkvᵀ + b."""
    fused, scope = f"{name}.Wqkv", f"{name}.Wqkv.{part}"
    matrix = g.params.transposed(f"{fused}.weight", 3 * sizes.hidden, sizes.hidden)
    y = g.op("MatMul", x, g.graph.weight(f"{scope}.weight", matrix[:, cut]), name=f"{scope}/MatMul")
    if not sizes.attention_bias:
        return y
    bias = g.params.read(f"{fused}.bias", 3 * sizes.hidden)[cut]
    return g.op("Add", y, g.graph.weight(f"{scope}.bias", bias), name=f"{scope}/Add")


def _rotated_heads(g: Scope, x: str, view: _View, name: str, heads: int, head: int) -> str:
    """Cut into heads and turn each pair (a, b) by its position's angle: (B, H, S, D)."""
    parts = g.op("Reshape", x, g.ints(0, 0, heads, head), name=f"{name}/Reshape")
    a, b = blocks.split(g, parts, name, head // 2, head // 2)  # (B, S, H, D/2)

    def product(value: str, factor: str, kind: str) -> str:
        return g.op("Mul", value, factor, name=f"{name}/{kind}")

    a_cos, b_sin = product(a, view.cos, "ACos"), product(b, view.sin, "BSin")
    b_cos, a_sin = product(b, view.cos, "BCos"), product(a, view.sin, "ASin")
    left = g.op("Sub", a_cos, b_sin, name=f"{name}/Left")
    right = g.op("Add", b_cos, a_sin, name=f"{name}/Right")
    turned = g.op("Concat", left, right, name=f"{name}/Concat", axis=-1)
    return g.op("Transpose", turned, name=f"{name}/Transpose", perm=[0, 2, 1, 3])


def _gated_mlp(g: Scope, x: str, name: str, sizes: _Sizes) -> str:
    """Return (act(a) ⊙ b)·Wo, where a and b are the halves of x·Wi  (Shazeer, arXiv:2002.05202)."""
    wide, bias = sizes.intermediate, sizes.mlp_bias
    inner = blocks.linear(g, x, f"{name}.Wi", sizes.hidden, 2 * wide, bias=bias)
    a, b = blocks.split(g, inner, f"{name}.Wi", wide, wide)
    a = blocks.ACTIVATIONS[sizes.activation](g, a, f"{name}.activation")
    gated = g.op("Mul", a, b, name=f"{name}/Gate")
    return blocks.linear(g, gated, f"{name}.Wo", wide, sizes.hidden, bias=bias)


def _norm(g: Scope, x: str, name: str, sizes: _Sizes) -> str:
    return blocks.layer_norm(g, x, name, sizes.hidden, sizes.epsilon, bias=sizes.norm_bias)
