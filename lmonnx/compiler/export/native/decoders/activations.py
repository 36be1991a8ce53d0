"""Activations of decoders by their name in config.json, one fused operator each."""

from __future__ import annotations

from collections.abc import Callable

from lmonnx.compiler.export.native.scope import Scope
from lmonnx.compiler.graph import MICROSOFT


def _fused(op_type: str, **attributes: float) -> Callable[[Scope, str, str], str]:
    return lambda g, x, name: g.op(
        op_type, x, name=f"{name}/{op_type}", domain=MICROSOFT, **attributes
    )


# x · sigmoid(alpha · x)
_SILU = _fused("QuickGelu", alpha=1.0)
_GELU_TANH = _fused("FastGelu")

# transformers' ACT2FN, as far as decoders use it.
ACTIVATIONS: dict[str, Callable[[Scope, str, str], str]] = {
    "gelu": _fused("Gelu"),
    "gelu_fast": _GELU_TANH,
    "gelu_new": _GELU_TANH,
    "gelu_pytorch_tanh": _GELU_TANH,
    "quick_gelu": _fused("QuickGelu", alpha=1.702),
    "relu": lambda g, x, name: g.op("Relu", x, name=f"{name}/Relu"),
    "silu": _SILU,
    "swish": _SILU,
}
