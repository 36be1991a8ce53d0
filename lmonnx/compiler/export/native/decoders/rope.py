"""Rotary positions: config.json's fields → frequencies → the tables that the kernel reads.

Every kind of scaling that depends on no length of the text is a change of the frequencies, so the
graph only knows tables. Computed in float32 step by step, as transformers does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from lmonnx.compiler.export.native.config import Config

Frequencies = NDArray[np.float32]  # (rotated / 2,), radians a position


@dataclass(frozen=True, slots=True)
class Rope:
    """Angles a position, and what the rotated vectors are multiplied by.

    `context` is how many positions the frequencies are right for.
    """

    frequencies: tuple[float, ...]
    factor: float
    context: int

    def tables(self, positions: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return cosines and sines, (positions, rotated / 2) each.

        Source:
            Su et al., "RoFormer" (arXiv:2104.09864).
        """
        frequencies = np.array(self.frequencies, np.float32)
        angles = np.arange(positions, dtype=np.float32)[:, None] * frequencies
        factor = np.float32(self.factor)
        return np.cos(angles) * factor, np.sin(angles) * factor


@dataclass(frozen=True, slots=True)
class _Asked:
    """A scaling's own fields, the plain frequencies, and what they are made from."""

    fields: Config
    plain: Frequencies
    base: float
    context: int
    stated: int | None

    @property
    def original(self) -> int:
        """Return how many positions the model was first trained on."""
        return self.stated or self.context


@dataclass(frozen=True, slots=True)
class RopeFields:
    """What a family calls the fields, and what they are where it does not state them."""

    base: str = "rope_theta"
    default_base: float = 10000.0
    share: str = ""  # how much of a head is turned; "" is all
    default_share: float = 1.0
    aliases: Mapping[str, str] = field(default_factory=dict)  # other names of kinds of scaling


LLAMA_ROPE = RopeFields()


def read_rope(config: Config, head: int, fields: RopeFields = LLAMA_ROPE) -> Rope:
    """Read the rotations of heads of `head`.

    Raises:
        UnsupportedError: The scaling is of an unknown kind.
    """
    context = config.integer("max_position_embeddings")
    stated = config.integer_or_none("original_max_position_embeddings")
    base = config.number(fields.base, fields.default_base)
    share = config.number(fields.share, fields.default_share) if fields.share else 1.0
    scaling = config.section("rope_parameters") or config.section("rope_scaling")
    if scaling is None:
        plain = frequencies(base, int(head * share))
        return Rope(tuple(plain.tolist()), 1.0, context)
    base = scaling.number("rope_theta", base)
    if fields.share:
        share = scaling.number("partial_rotary_factor", share)
    stated = scaling.integer_or_none("original_max_position_embeddings", stated)
    plain = frequencies(base, int(head * share))
    kind = _kind(scaling, fields)
    rope = _SCALINGS[kind](_Asked(scaling, plain, base, context, stated))
    scaling.finish()
    return rope


def _kind(scaling: Config, fields: RopeFields) -> str:
    """Return the kind of a scaling: rope_type, or in older files type."""
    older = scaling.choice("type", (*_SCALINGS, *fields.aliases), "default")
    kind = scaling.choice("rope_type", (*_SCALINGS, *fields.aliases), older)
    return fields.aliases.get(kind, kind)


def frequencies(base: float, rotated: int) -> Frequencies:
    """Return base^(-2i/rotated) for i from 0: (rotated / 2,)."""
    result: Frequencies = np.float32(1) / _powers(base, rotated)
    return result


def _powers(base: float, rotated: int) -> Frequencies:
    """Return base^(2i/rotated) as torch has it: rounded once, where numpy is often a bit off.

    A bit is .01 of an angle at position 100,000.
    """
    exponents = np.arange(0, rotated, 2, dtype=np.float32) / np.float32(rotated)
    result: Frequencies = (np.float64(base) ** exponents.astype(np.float64)).astype(np.float32)
    return result


def _default(asked: _Asked) -> Rope:
    return Rope(tuple(asked.plain.tolist()), 1.0, asked.context)


def _linear(asked: _Asked) -> Rope:
    factor = np.float32(asked.fields.number("factor"))
    return Rope(tuple((asked.plain / factor).tolist()), 1.0, asked.context)


def _dynamic(asked: _Asked) -> Rope:
    """Up to max_position_embeddings nothing is scaled; that is how far it is served."""
    asked.fields.number("factor")
    return _default(asked)


def _llama3(asked: _Asked) -> Rope:
    """Divide the slow frequencies by the factor, and go over smoothly to the fast ones.

    Source:
        transformers, `_compute_llama3_parameters`.
    """
    fields = asked.fields
    factor = fields.number("factor")
    low, high = fields.number("low_freq_factor"), fields.number("high_freq_factor")
    waves = np.float32(2 * math.pi) / asked.plain
    smooth = (asked.original / waves - low) / (high - low)
    mixed = (1 - smooth) * asked.plain / factor + smooth * asked.plain
    slow = np.where(waves > asked.original / low, asked.plain / factor, asked.plain)
    medium = (waves >= asked.original / high) & (waves <= asked.original / low)
    scaled = np.where(medium, mixed, slow).astype(np.float32)
    return Rope(tuple(scaled.tolist()), 1.0, asked.context)


def _yarn(asked: _Asked) -> Rope:
    """Divide by the factor what turns rarely, leave what turns often (Peng, arXiv:2309.00071).

    Source:
        transformers, `_compute_yarn_parameters`.
    """
    fields = asked.fields
    factor = fields.number("factor")
    fast, slow = fields.number("beta_fast", 32.0), fields.number("beta_slow", 1.0)
    rotated, base = 2 * len(asked.plain), asked.base

    def place(turns: float) -> float:
        return rotated * math.log(asked.original / (turns * 2 * math.pi)) / (2 * math.log(base))

    low, high = place(fast), place(slow)
    if fields.flag("truncate", default=True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, rotated - 1)
    width = high - low or 0.001
    ramp = np.clip((np.arange(rotated // 2, dtype=np.float32) - low) / width, 0, 1)
    kept = np.float32(1) - ramp
    scaled = asked.plain / np.float32(factor) * (1 - kept) + asked.plain * kept
    return Rope(
        tuple(scaled.astype(np.float32).tolist()), _yarn_factor(fields, factor), asked.context
    )


def _yarn_factor(fields: Config, factor: float) -> float:
    def scale(weight: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0

    above, below = fields.number_or_none("mscale"), fields.number_or_none("mscale_all_dim")
    default = scale(above) / scale(below) if above and below else scale(1.0)
    return fields.number_or_none("attention_factor") or default


def _longrope(asked: _Asked) -> Rope:
    """Take the short factors, which hold up to the original context: that is what is served.

    Source:
        Ding et al., "LongRoPE" (arXiv:2402.13753); transformers, `_compute_longrope_parameters`.
    """
    fields = asked.fields
    short = np.array(fields.numbers("short_factor", len(asked.plain)), np.float32)
    fields.numbers("long_factor", len(asked.plain))
    factor = fields.number_or_none("factor") or 1.0
    if asked.stated:
        factor = asked.context / asked.stated
    default = math.sqrt(1 + math.log(factor) / math.log(asked.original)) if factor > 1 else 1.0
    scale = fields.number_or_none("attention_factor") or default
    scaled = np.float32(1) / (short * _powers(asked.base, 2 * len(asked.plain)))
    return Rope(tuple(scaled.tolist()), scale, min(asked.original, asked.context))


_SCALINGS: Mapping[str, Callable[[_Asked], Rope]] = {
    "default": _default,
    "linear": _linear,
    "dynamic": _dynamic,
    "llama3": _llama3,
    "yarn": _yarn,
    "longrope": _longrope,
}
