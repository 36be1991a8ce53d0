"""How large the cache is: slots × tokens within a budget of bytes."""

from __future__ import annotations

from dataclasses import dataclass, replace

from lmonnx.bundle.manifest import Generation
from lmonnx.errors import InputError
from lmonnx.runtime.generate.kv_cache import KVCache, token_bytes

SLOTS = 8
ROWS = 80  # of an encoder-decoder, whose rows are many and short; more take memory and no less time
SOURCES = 48  # of those rows, where nobody asks for slots: more take memory and hardly less time
FIRST_LENGTH = 32  # tokens that each of those rows has room for at first
CACHE_BYTES = 2 * 2**30
MOST_SLOTS = 1024


@dataclass(frozen=True, slots=True)
class Capacity:
    """What the caller asks of the cache; None is whatever the other two and the model allow.

    `context` is the most tokens of prompt and completion together, `slots` how many sequences run
    at once (a beam is one), `cache_bytes` the most memory that they may take together.
    """

    context: int | None = None
    slots: int | None = None
    cache_bytes: int = CACHE_BYTES

    def __post_init__(self) -> None:
        for name, value, most in (
            ("context", self.context, 2**31 - 1),
            ("slots", self.slots, MOST_SLOTS),
            ("cache_bytes", self.cache_bytes, 2**50),
        ):
            if value is not None and (type(value) is not int or not 1 <= value <= most):
                raise InputError(
                    f"{name} is {value!r:.40}, must be a whole number from 1 to {most}"
                )


def make_row_cache(generation: Generation, asked: Capacity) -> KVCache:
    """Return the cache of an encoder-decoder: as many rows as there is memory for, up to ROWS.

    Raises:
        InputError: It does not fit the budget or the model; the message gives the figures.
    """
    if asked.slots is None:
        tokens = asked.cache_bytes // token_bytes(generation.cache)
        context = asked.context or min(generation.context, max(1, tokens // SLOTS))
        asked = replace(asked, context=context, slots=max(1, min(ROWS, tokens // context)))
    return make_cache(generation, asked, first_length=FIRST_LENGTH)


def make_cache(
    generation: Generation, asked: Capacity, *, first_length: int | None = None
) -> KVCache:
    """Return a cache of the size that was asked for; for `first_length` see `KVCache`.

    Raises:
        InputError: It does not fit the budget or the model; the message gives the figures.
    """
    one = token_bytes(generation.cache)
    tokens = asked.cache_bytes // one  # of all slots together
    if asked.context is not None and asked.context > generation.context:
        raise InputError(
            f"context is {asked.context}, the model takes {generation.context} tokens; ask for less"
        )
    if asked.context is None:
        slots = asked.slots or SLOTS
        context = min(generation.context, tokens // slots)
    else:
        context = asked.context
        slots = asked.slots or max(1, min(SLOTS, tokens // context))
    if context < 1 or slots * context > tokens:
        raise InputError(
            f"{slots} slots of {max(1, context)} tokens take {slots * max(1, context) * one} bytes "
            f"({one} a token), cache_bytes allows {asked.cache_bytes}; ask for fewer slots, "
            "a smaller context or more bytes"
        )
    return KVCache(generation.cache, slots, context, first_length=first_length)
