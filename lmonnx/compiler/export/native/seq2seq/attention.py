"""Attention of encoder-decoders by onnxruntime's fused operators.

Heads that its kernel does not take are filled up with zeros, which change no score and no answer.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lmonnx.compiler.export.native.decoders.blocks import path_of, split
from lmonnx.compiler.export.native.scope import Scope
from lmonnx.compiler.export.native.seq2seq.plan import Heads, Stack
from lmonnx.compiler.graph import MICROSOFT

# Added to a score it leaves nothing; the kernel's own -10000 is in reach of unscaled scores.
_MASKED = float(np.finfo(np.float32).min)
Array = NDArray[np.float32]


def read_source(g: Scope, s: Stack, prefix: str, x: str, added: str) -> str:
    """Return what each token sees of its source: (G, S, E) → (G, S, H·D).

    Args:
        g: Where to write.
        s: The encoder.
        prefix: The layer's.
        x: (G, S, E).
        added: (1, H, S, S), added to the scores; "" is none.
    """
    scope = _scope(prefix, s.modules.out)
    size = s.heads.size
    qkv = project(g, x, f"{scope}/qkv_proj", prefix, s.modules.qkv, s.heads, size)
    q, k, v = split(g, qkv, scope, *(s.heads.inner,) * 3)
    return _attend(g, s.heads, [q, k, v, "", "source_lengths", added], scope)


def read_answer(g: Scope, s: Stack, index: int, x: str, added: str) -> str:
    """Return what each token sees of the answer so far: (rows, Q, E) → (rows, Q, H·D).

    Args:
        g: Where to write.
        s: The decoder.
        index: The layer.
        x: (rows, Q, E).
        added: (rows, H, Q, T), added to the scores; "" is none.
    """
    prefix = f"{s.layers}.{index}."
    scope, heads = _scope(prefix, s.modules.out), s.heads
    qkv = project(g, x, f"{scope}/qkv_proj", prefix, s.modules.qkv, heads, heads.filled)
    caches = [f"{index}.key", f"{index}.value"]
    inputs = [qkv, "", "", *(f"past_key_values.{cache}" for cache in caches)]
    inputs += ["seqlens_k", "total_sequence_length"]
    return g.op(
        "GroupQueryAttention",
        *inputs,
        *(["", "", "", added] if added else []),
        name=f"{scope}/GroupQueryAttention",
        outputs=[f"/{scope}/GroupQueryAttention_output", *(f"present.{c}" for c in caches)],
        domain=MICROSOFT,
        num_heads=heads.count,
        kv_num_heads=heads.count,
        do_rotary=0,
        scale=heads.scale,
    )


def read_cross(g: Scope, s: Stack, index: int, x: str, shapes: tuple[str, str]) -> str:
    """Return what each token sees of its row's source: (rows, R, E) → (rows, R, H·D).

    The rows of a source stand in one, so that its keys are read once for all of them.

    Args:
        g: Where to write.
        s: The decoder.
        index: The layer.
        x: (rows, R, E).
        shapes: (G, rows / G · R, H·D) and (rows, R, H·D).
    """
    prefix, heads = f"{s.layers}.{index}.", s.heads
    scope = _scope(prefix, s.modules.cross_out)
    q = project(
        g,
        x,
        path_of(prefix + s.modules.cross_qkv[0]),
        prefix,
        s.modules.cross_qkv[:1],
        heads,
        heads.filled,
    )
    q = g.op("Reshape", q, shapes[0], name=f"{scope}/Join")
    keys = [f"cross_key_values.{index}.{part}" for part in ("key", "value")]
    seen = _attend(g, heads, [q, *keys, "", "source_lengths"], scope)
    return g.op("Reshape", seen, shapes[1], name=f"{scope}/Part")


def cross_keys(g: Scope, decoder: Stack, index: int, x: str) -> list[str]:
    """Return a decoder layer's keys and values of the sources: (G, S, E) → (G, H, S, D) each."""
    heads, prefix = decoder.heads, f"{decoder.layers}.{index}."
    scope = _scope(prefix, decoder.modules.cross_out)
    wide = heads.count * heads.filled
    both = project(
        g, x, f"{scope}/kv_proj", prefix, decoder.modules.cross_qkv[1:], heads, heads.filled
    )
    made = []
    for part, name in zip(split(g, both, scope, wide, wide), ("key", "value"), strict=True):
        cut = g.op(
            "Reshape", part, g.ints(0, 0, heads.count, heads.filled), name=f"{scope}/{name}/Cut"
        )
        output = f"cross_key_values.{index}.{name}"
        perm, path = [0, 2, 1, 3], f"{scope}/{name}/Transpose"
        made.append(g.op("Transpose", cut, name=path, perm=perm, outputs=[output]))
    return made


def project(
    g: Scope,
    x: str,
    path: str,
    prefix: str,
    modules: Sequence[str],
    heads: Heads,
    size: int,
) -> str:
    """Return x·W + b of several modules side by side, their heads filled up to `size`."""
    wide = heads.wide
    parts = [
        _fill_rows(g.params.read(f"{prefix}{module}.weight", heads.inner, wide), heads, size).T
        for module in modules
    ]
    name = path.replace("/", ".")
    weight = g.graph.weight(f"{name}.weight", np.concatenate(parts, axis=1))
    y = g.op("MatMul", x, weight, name=f"{path}/MatMul")
    if not heads.bias:
        return y
    biases = [
        _fill_rows(g.params.read(f"{prefix}{module}.bias", heads.inner), heads, size)
        for module in modules
    ]
    bias = g.graph.weight(f"{name}.bias", np.concatenate(biases))
    return g.op("Add", y, bias, name=f"{path}/Add")


def project_out(g: Scope, x: str, module: str, heads: Heads, size: int) -> str:
    """Return x·W + b of heads that are filled up to `size`: (…, H·size) → (…, E)."""
    path = path_of(module)
    rows = g.params.read(f"{module}.weight", heads.wide, heads.inner)
    filled = _fill_rows(np.ascontiguousarray(rows.T), heads, size)
    y = g.op("MatMul", x, g.graph.weight(f"{module}.weight", filled), name=f"{path}/MatMul")
    if not heads.bias:
        return y
    bias = g.graph.weight(f"{module}.bias", g.params.read(f"{module}.bias", heads.wide))
    return g.op("Add", y, bias, name=f"{path}/Add")


def _fill_rows(rows: Array, heads: Heads, size: int) -> Array:
    """Put zeros after each head's rows: (H·D, …) → (H·size, …)."""
    if size == heads.size:
        return rows
    rest = rows.shape[1:]
    filled = np.zeros((heads.count, size, *rest), np.float32)
    filled[:, : heads.size] = rows.reshape(heads.count, heads.size, *rest)
    return filled.reshape(heads.count * size, *rest)


def _attend(g: Scope, heads: Heads, inputs: list[str], scope: str) -> str:
    while not inputs[-1]:
        inputs = inputs[:-1]
    return g.op(
        "MultiHeadAttention",
        *inputs,
        name=f"{scope}/MultiHeadAttention",
        domain=MICROSOFT,
        num_heads=heads.count,
        scale=heads.scale,
        mask_filter_value=_MASKED,
    )


def _scope(prefix: str, module: str) -> str:
    return path_of(prefix + module.rpartition(".")[0])
