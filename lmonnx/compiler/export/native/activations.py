"""Activations by their name in config.json: each takes a value of the graph and a name."""

from __future__ import annotations

import math
from collections.abc import Callable

from lmonnx.compiler.export.native.scope import Scope


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
    # Halved first: onnxruntime would take a scale at the end into the product that follows.
    half = g.op("Mul", x, g.floats(0.5), name=f"{name}/Half")
    return g.op("Mul", half, shifted, name=f"{name}/Product")


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
