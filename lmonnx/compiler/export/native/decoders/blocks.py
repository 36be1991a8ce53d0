"""The parts of a decoder's graph: each takes values of the graph and returns a new one.

The operators are onnxruntime's fused ones from the start: no pass would find them in a plain form.
"""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

from lmonnx.compiler.export.native.decoders.activations import ACTIVATIONS
from lmonnx.compiler.export.native.decoders.places import positions
from lmonnx.compiler.export.native.decoders.plan import Decoder, Feeds, Norm, Normalizes, Product
from lmonnx.compiler.export.native.scope import Scope
from lmonnx.compiler.graph import MICROSOFT

_BELOW = re.compile(r"\.(?!\d)")


def path_of(module: str) -> str:
    """Return a module as the path that its nodes' names start with: model.layers.3 stays whole."""
    return _BELOW.sub("/", module)


def product(g: Scope, x: str, prefix: str, spec: Product, wide: int, *outs: int) -> str:
    """Return x·W + b: (…, wide) → (…, sum of outs); `outs` are the sizes of its parts."""
    module = prefix + spec.module
    weight = g.graph.weight(f"{module}.weight", _matrix(g, prefix, spec, wide, outs))
    y = g.op("MatMul", x, weight, name=f"{path_of(module)}/MatMul")
    if not spec.bias:
        return y
    bias = g.graph.weight(f"{module}.bias", _bias(g, prefix, spec, outs))
    return g.op("Add", y, bias, name=f"{path_of(module)}/Add")


def _matrix(
    g: Scope, prefix: str, spec: Product, wide: int, outs: tuple[int, ...]
) -> NDArray[np.float32]:
    """Read the matrix of a product as MatMul takes it: (wide, sum of outs)."""
    if spec.by_columns:
        matrix = g.params.read(f"{prefix}{spec.module}.weight", wide, sum(outs))
    elif spec.parts:
        matrix = np.empty((wide, sum(outs)), np.float32)
        ends = np.cumsum(outs)
        for part, out, end in zip(spec.parts, outs, ends, strict=True):
            matrix[:, end - out : end] = g.params.read(f"{prefix}{part}.weight", out, wide).T
    else:
        rows = g.params.read(f"{prefix}{spec.module}.weight", sum(outs), wide)
        matrix = np.ascontiguousarray(_ordered(rows, spec, outs).T)
    return matrix if spec.factor == 1.0 else matrix * np.float32(spec.factor)


def _bias(g: Scope, prefix: str, spec: Product, outs: tuple[int, ...]) -> NDArray[np.float32]:
    if spec.parts:
        parts = zip(spec.parts, outs, strict=True)
        bias = np.concatenate([g.params.read(f"{prefix}{part}.bias", out) for part, out in parts])
    else:
        bias = _ordered(g.params.read(f"{prefix}{spec.module}.bias", sum(outs)), spec, outs)
    return bias if spec.factor == 1.0 else bias * np.float32(spec.factor)


def _ordered(
    rows: NDArray[np.float32], spec: Product, outs: tuple[int, ...]
) -> NDArray[np.float32]:
    """Put all heads' queries first, then the keys, then the values."""
    if not spec.by_head:
        return rows
    by_head = rows.reshape(spec.by_head, len(outs), -1, *rows.shape[1:])
    return np.swapaxes(by_head, 0, 1).reshape(rows.shape)


def norm(g: Scope, d: Normalizes, x: str, module: str, size: int, *, factor: float = 1.0) -> str:
    """Normalize over the last axis and multiply by the checkpoint's weights times `factor`."""
    weight = g.params.read(f"{module}.weight", size)
    if d.norm is Norm.SHIFTED_RMS:
        weight = weight + np.float32(1)
    if factor != 1.0:
        weight = weight * np.float32(factor)
    inputs = [x, g.graph.weight(f"{module}.weight", weight)]
    op_type = "SimplifiedLayerNormalization"
    if d.norm is Norm.LAYER:
        op_type = "LayerNormalization"
        bias = g.params.read(f"{module}.bias", size) * np.float32(factor)
        inputs.append(g.graph.weight(f"{module}.bias", bias))
    name = f"{path_of(module)}/{op_type}"
    return g.op(op_type, *inputs, name=name, axis=-1, epsilon=d.epsilon)


def split(g: Scope, x: str, name: str, *sizes: int) -> list[str]:
    """Cut the last axis into parts of the given sizes."""
    parts = [f"/{name}/Split_output_{i}" for i in range(len(sizes))]
    g.op("Split", x, g.ints(*sizes), name=f"{name}/Split", outputs=parts, axis=-1)
    return parts


def attention(g: Scope, d: Decoder, index: int, x: str) -> str:
    """Return what the heads of a layer see, side by side: (B, S, E) → (B, S, H·D).

    The kernel turns queries and keys by their positions, writes keys and values at the row's end
    of the cache, and masks what is after a token or too far before it.
    """
    a, prefix = d.attention, f"{d.names.layers}.{index}."
    layer, scope = d.layers[index], path_of(f"{prefix}{a.qkv.module.rpartition('.')[0]}")
    sizes = (a.heads * a.head, a.kv_heads * a.head, a.kv_heads * a.head)
    qkv = [product(g, x, prefix, a.qkv, d.hidden, *sizes), "", ""]
    tables = [f"{layer.rope}.cos", f"{layer.rope}.sin"] if layer.rope else []
    turned_before = bool(tables) and not d.turns_in_kernel(layer)
    if a.head_norms or turned_before:
        qkv = split(g, qkv[0], scope, *sizes)
        for part, module in enumerate(a.head_norms):
            qkv[part] = _norm_heads(g, d, qkv[part], prefix + module, sizes[part] // a.head)
    if turned_before:
        for part, name in enumerate(("query", "key")):
            heads = sizes[part] // a.head
            qkv[part] = _turn_heads(g, d, qkv[part], tables, f"{scope}/{name}", heads)
        tables = []
    caches = [f"{index}.key", f"{index}.value"] if d.cached else []
    return g.op(
        "GroupQueryAttention",
        *qkv,
        *([f"past_key_values.{cache}" for cache in caches] or ["", ""]),
        "seqlens_k",
        "total_sequence_length",
        *tables,
        name=f"{scope}/GroupQueryAttention",
        outputs=[f"/{scope}/GroupQueryAttention_output", *(f"present.{c}" for c in caches)],
        domain=MICROSOFT,
        num_heads=a.heads,
        kv_num_heads=a.kv_heads,
        do_rotary=int(bool(tables)),
        scale=a.scale,
        softcap=a.softcap,
        local_window_size=layer.window or -1,
    )


def _turn_heads(g: Scope, d: Decoder, x: str, tables: list[str], name: str, heads: int) -> str:
    """Turn every head by its position: (B, S, heads·D) → the same."""
    rotated = 2 * g.graph.initializers[tables[0]].dims[1]
    return g.op(
        "RotaryEmbedding",
        x,
        positions(g, d),
        *tables,
        name=f"{name}/RotaryEmbedding",
        domain=MICROSOFT,
        num_heads=heads,
        rotary_embedding_dim=rotated if rotated < d.attention.head else 0,
    )


def _norm_heads(g: Scope, d: Decoder, x: str, module: str, heads: int) -> str:
    """Normalize every head for itself: (B, S, heads·D) → the same."""
    size, name = d.attention.head, path_of(module)
    parts = g.op("Reshape", x, g.ints(0, 0, heads, size), name=f"{name}/Cut")
    normed = norm(g, d, parts, module, size)
    return g.op("Reshape", normed, g.ints(0, 0, heads * size), name=f"{name}/Join")


def feed_forward(g: Scope, d: Feeds, prefix: str, x: str) -> str:
    """Return down(act(gate) · up), or down(act(up)): (B, R, E) → (B, R, E)."""
    f = d.ffn
    scope = path_of(f"{prefix}{f.up.module.rpartition('.')[0]}".rstrip("."))
    activation = ACTIVATIONS[f.activation]
    if f.gated:
        both = product(g, x, prefix, f.up, d.hidden, f.size, f.size)
        gate, up = split(g, both, scope, f.size, f.size)
        inner = g.op("Mul", activation(g, gate, f"{scope}/act"), up, name=f"{scope}/Mul")
    else:
        inner = activation(g, product(g, x, prefix, f.up, d.hidden, f.size), f"{scope}/act")
    return product(g, inner, prefix, f.down, f.size, d.hidden)


def block(g: Scope, d: Decoder, index: int, x: str, first: str = "") -> str:
    """Return x + attention(norm(x)), y + feed_forward(norm(y)) of that: (B, S, E) → (B, R, E).

    `first` is the first of the R positions that are wanted, which the last layer alone knows: all
    others must be there for those after them.
    """
    names, a = d.names, d.attention
    prefix = f"{names.layers}.{index}."
    normed = norm(g, d, x, prefix + names.attention_norm, d.hidden)
    attended = attention(g, d, index, normed)
    scope = path_of(f"{names.layers}.{index}")
    if first:
        x = rows_from(g, x, first, f"{scope}/residual")
        attended = rows_from(g, attended, first, f"{scope}/attended")
    attended = product(g, attended, prefix, a.out, a.heads * a.head, d.hidden)
    if names.attention_post_norm:
        attended = norm(g, d, attended, prefix + names.attention_post_norm, d.hidden)
    y = g.op("Add", x, attended, name=f"{scope}/attention/Residual")
    normed = norm(g, d, x if d.parallel else y, prefix + names.ffn_norm, d.hidden)
    fed = feed_forward(g, d, prefix, normed)
    if names.ffn_post_norm:
        fed = norm(g, d, fed, prefix + names.ffn_post_norm, d.hidden)
    return g.op("Add", y, fed, name=f"{scope}/feed_forward/Residual")


def rows_from(g: Scope, x: str, first: str, name: str) -> str:
    """Keep the positions from `first` on: (B, S, E) → (B, R, E)."""
    end = g.ints(np.iinfo(np.int64).max)
    return g.op("Slice", x, first, end, g.ints(1), name=f"{name}/Slice")
