"""Whether this CPU's int8 kernels are right: tiny graphs against exact integer arithmetic.

The graphs are files beside this one, since the runtime has no onnx to build them with
(`tests/make_probes.py` writes them).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lmonnx.runtime.session import run_bytes

K, N, ROWS = 64, 16, 8
SEVEN_BITS, EIGHT_BITS = 63, 127


@dataclass(frozen=True, slots=True)
class KernelResult:
    """What one kernel did with extreme values."""

    name: str
    exact: bool
    detail: str


def probe_weights(limit: int) -> NDArray[np.int8]:
    """Return (K, N) weights in ±`limit`: whole columns at the ends, where pairs overflow first."""
    k, n = np.arange(K)[:, None], np.arange(N)[None, :]
    weights = (k * 37 + n * 11) % (2 * limit + 1) - limit
    weights[:, : N // 4] = limit
    weights[:, N // 4 : N // 2] = -limit
    return weights.astype(np.int8)


def probe_activations() -> NDArray[np.uint8]:
    """Return (ROWS, K) activations, two rows at the ends of uint8."""
    values = (np.arange(ROWS * K).reshape(ROWS, K) * 29) % 256
    values[0], values[1] = 255, 1
    return values.astype(np.uint8)


def self_test() -> tuple[KernelResult, ...]:
    """Run every int8 kernel that bundles use, and the one that they avoid."""
    seven = _exact("int8_seven_bits.onnx", SEVEN_BITS)
    eight = _exact("int8_eight_bits.onnx", EIGHT_BITS)
    return (
        KernelResult(
            "int8, 7-bit weights",
            seven,
            "exact: what int8 bundles use"
            if seven
            else "wrong on this CPU; int8 bundles run with session.x64quantprecision",
        ),
        KernelResult(
            "int8, 8-bit weights",
            eight,
            "exact here, not on every CPU: no bundle of lmonnx uses it"
            if eight
            else "saturates on this CPU: no bundle of lmonnx uses it",
        ),
    )


@cache
def int8_is_exact() -> bool:
    """Say whether 7-bit weights give exact integer sums here; measured once a process."""
    return _exact("int8_seven_bits.onnx", SEVEN_BITS)


def _exact(file: str, limit: int) -> bool:
    activations = probe_activations()
    wanted = (activations.astype(np.int64) - 128) @ probe_weights(limit).astype(np.int64)
    given: Any = run_bytes(_graph(file), {"activations": activations}, settings={})[0]
    return bool(np.array_equal(given.astype(np.int64), wanted))


def _graph(file: str) -> bytes:
    return files("lmonnx.runtime").joinpath("probes", file).read_bytes()
