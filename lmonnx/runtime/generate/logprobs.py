"""Logits → log-probabilities: of the token that stands there, and of the likeliest."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lmonnx.runtime.generate.selection import nth_highest
from lmonnx.runtime.numerics import Floats


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token's natural log-probability and its place among all; rank 1 is the likeliest.

    `top` holds (id, log-probability) of the likeliest tokens, best first, the lower id of a tie.
    """

    token: int
    logprob: float
    rank: int
    top: tuple[tuple[int, float], ...]


def log_softmax(logits: Floats) -> Floats:
    """Return x - max - log Σ e^(x - max) over the last axis, (..., V)."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    result: Floats = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return result


def token_logprob(logits: Floats, token: int, k: int) -> TokenLogprob:
    """Return a token's log-probability in a row of logits, and those of the k likeliest.

    Args:
        logits: (V,) float32, the model's own or after the rules.
        token: The id that stands there.
        k: How many of the likeliest to name; 0 for none.
    """
    highest = logits.max()
    total = np.log(np.exp(logits - highest).sum(dtype=np.float64))

    def logprob(index: int) -> float:
        return float(logits[index] - highest - total)

    top = tuple((i, logprob(i)) for i in likeliest(logits, k))
    return TokenLogprob(token, logprob(token), 1 + int((logits > logits[token]).sum()), top)


def likeliest(values: Floats, k: int) -> list[int]:
    """Return the ids of the k highest of a row (V,), best first; of a tie the lower id."""
    k = min(k, len(values))
    if k == 0:
        return []
    ids = np.flatnonzero(values >= nth_highest(values, k))  # in order: a stable sort keeps ties so
    found: list[int] = ids[np.argsort(-values[ids], kind="stable")][:k].tolist()
    return found
