"""What a GGUF file says of rotary positions → config.json's `rope_scaling`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from lmonnx.compiler.checkpoint.gguf_fields import Fields
from lmonnx.errors import UnsupportedError

Scaling = dict[str, Any]
Vector = npt.NDArray[np.float64]

_YARN = {
    "rope.scaling.yarn_beta_fast": "beta_fast",
    "rope.scaling.yarn_beta_slow": "beta_slow",
    "rope.scaling.yarn_attn_factor": "attention_factor",
}
# low, high, original: of every Llama 3.1 and later first. Short heads tell many of them apart no
# more than the model would.
_LLAMA3 = tuple((1.0, 4.0, 2**power) for power in (13, *range(4, 13), *range(14, 21)))


def stated_scaling(fields: Fields) -> Scaling | None:
    """Return the scaling that the keys state: linear, yarn or none.

    Raises:
        UnsupportedError: It is another.
    """
    old = fields.number("rope.scale_linear", 1.0)  # the key of 2023
    kind = fields.text("rope.scaling.type", "linear")  # llama.cpp's default
    factor = fields.number("rope.scaling.factor", old) or 1.0
    if kind == "none" or (kind == "linear" and factor == 1.0):
        return None
    if kind == "linear":
        return {"rope_type": "linear", "factor": factor}
    if kind != "yarn":
        raise UnsupportedError(
            f"{fields.path}: rope.scaling.type {kind!r:.40} is not supported, only linear and yarn"
        )
    fields.only("rope.scaling.yarn_ext_factor", value=1.0)
    given = {name: fields.number(key) for key, name in _YARN.items() if fields.has(key)}
    original = fields.integer("rope.scaling.original_context_length")
    return {
        "rope_type": "yarn",
        "factor": factor,
        "original_max_position_embeddings": original,
        **given,
    }


def llama3_scaling(fields: Fields, factors: Vector, *, theta: float, dims: int) -> Scaling | None:
    """Return the parameters that give the divisors in `rope_freqs.weight`.

    Args:
        fields: For the error.
        factors: (dims / 2,), by what each frequency is divided.
        theta: rope_theta.
        dims: The head's dimensions that rotate.

    Raises:
        UnsupportedError: The divisors are not of Llama 3's rule.

    Source:
        transformers, `_compute_llama3_parameters`; llama.cpp's converter, `LlamaModel`.
    """
    waves = 2 * math.pi * theta ** (np.arange(0, dims, 2) / dims)
    if factors.shape == waves.shape and np.isfinite(factors).all() and factors.min() >= 1.0:
        if factors.max() == 1.0:
            return None
        for low, high, original in (*_LLAMA3, *_fitted(factors, waves)):
            factor = round(float(factors.max()), 4)
            made = _llama3_factors(waves, factor, low, high, original)
            if np.allclose(made, factors, rtol=1e-5):
                return {
                    "rope_type": "llama3",
                    "factor": factor,
                    "low_freq_factor": low,
                    "high_freq_factor": high,
                    "original_max_position_embeddings": original,
                }
    raise UnsupportedError(
        f"{fields.path}: rope_freqs.weight follows another rule than Llama 3's; export the original"
        " checkpoint instead"
    )


def _llama3_factors(waves: Vector, factor: float, low: float, high: float, original: int) -> Vector:
    smooth = (original / waves - low) / (high - low)
    between = 1 / ((1 - smooth) / factor + smooth)
    return np.where(waves < original / high, 1.0, np.where(waves > original / low, factor, between))


def _fitted(factors: Vector, waves: Vector) -> list[tuple[float, float, int]]:
    """Return the low, high and original length of a rule whose low is 1, if two points tell them.

    Between its ends the rule is a line over 1 / wavelength, and a line has two parameters: the
    three are one solution of many, all of which give the same divisors.
    """
    top = factors.max()
    middle = (factors > 1 + 1e-5) & (factors < top * (1 - 1e-5))
    if middle.sum() < 2:
        return []
    smooth = (1 / factors[middle][[0, -1]] - 1 / top) / (1 - 1 / top)
    rise, run = np.diff(smooth)[0], np.diff(1 / waves[middle][[0, -1]])[0]
    start = smooth[0] - rise / waves[middle][0] / run if run else 0.0
    if not start < -1e-6:
        return []
    high = 1 - 1 / start
    return [(1.0, round(float(high), 4), round(float(rise / run * (high - 1))))]


def long_scaling(fields: Fields, factors: Mapping[str, Vector], context: int) -> Scaling | None:
    """Return Phi-3's scaling by two lists of divisors, None where there are none.

    Args:
        fields: With the original length and the factor on the logits of attention.
        factors: "long" and "short", (dims / 2,) each.
        context: max_position_embeddings.

    Raises:
        UnsupportedError: The factor on attention is not the one that transformers computes.
    """
    original = fields.integer("rope.scaling.original_context_length", context, least=2)
    stated = fields.number("rope.scaling.attn_factor", 1.0)
    fields.only("rope.scaling.type", value="longrope")
    if not factors:
        return None
    ratio = context / original
    computed = math.sqrt(1 + math.log(ratio) / math.log(original)) if ratio > 1 else 1.0
    if set(factors) != {"long", "short"} or abs(stated - computed) > 1e-3 * computed:
        raise UnsupportedError(
            f"{fields.path}: its long rotary factors are not of Phi-3's rule; export the original"
            " checkpoint instead"
        )
    lists = {f"{name}_factor": _decimals(values) for name, values in factors.items()}
    return {"type": "longrope", **lists}


def _decimals(values: Vector) -> list[float]:
    """Return the shortest decimals that are these float32 numbers, as config.json has them."""
    return [float(str(value)) for value in values.astype(np.float32)]
