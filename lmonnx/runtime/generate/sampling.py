"""Logits → token: temperature, top-k, top-p, min-p, typical, and the draw."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lmonnx.errors import InputError
from lmonnx.runtime.generate.logprobs import log_softmax
from lmonnx.runtime.generate.params import SamplingParams
from lmonnx.runtime.generate.selection import around, nth_highest
from lmonnx.runtime.numerics import Floats, softmax

_BLOCK = 256


def sample(logits: Floats, params: SamplingParams, rng: np.random.Generator) -> int:
    """Return the likeliest token at temperature 0, else one drawn from the warped row.

    Args:
        logits: (V,) float32, after the rules.
        params: The request's options.
        rng: Gives one number a token, none at temperature 0.

    Raises:
        InputError: The rules leave no token, or the row holds NaN.
    """
    likeliest = int(logits.argmax())
    if not logits[likeliest] > -np.inf:  # argmax finds NaN first
        raise no_token()
    if params.temperature == 0:
        return likeliest
    return _draw(warp(logits, params), rng.random())


def no_token() -> InputError:
    """Return what is wrong where nothing can be chosen."""
    return InputError(
        "no token can come next: the options exclude all, or the model gave NaN; loosen "
        "suppress_tokens, bad_words, no_repeat_ngram_size, min_new_tokens or the schema"
    )


def warp(logits: Floats, params: SamplingParams) -> Floats:
    """Return a row over the temperature, with -inf for what the params exclude.

    Temperature 0 counts as 1 here. The order is transformers': temperature, top-k, top-p, min-p,
    typical; what comes later sees what is left.

    Args:
        logits: (V,) float32, left as it is.
        params: The request's options.
    """
    row = logits
    if params.temperature not in (0, 1):
        row = logits / float(params.temperature)
    if params.top_k:
        row = keep_top_k(row, params.top_k)
    if params.top_p < 1:
        row = keep_top_p(row, params.top_p)
    if params.min_p:
        row = keep_min_p(row, params.min_p)
    if params.typical_p < 1:
        row = keep_typical(row, params.typical_p)
    return row


def keep_top_k(logits: Floats, k: int) -> Floats:
    """Keep the k likeliest tokens and all that tie with the last of them."""
    if k >= len(logits):
        return logits
    return _masked(logits, logits >= np.float32(nth_highest(logits, k)))


def keep_top_p(logits: Floats, top_p: float) -> Floats:
    """Keep the likeliest tokens that together reach `top_p`, at least one.

    Of tokens that tie at the border the lower ids stay; transformers' sort leaves that open.

    Source:
        Holtzman et al., arXiv:1904.09751.
    """
    probabilities = softmax(logits)
    found, above = around(logits, probabilities, top_p)
    order = found[np.argsort(-logits[found], kind="stable")]  # likeliest first
    ranked = probabilities[order].astype(np.float64)
    # What transformers compares: the mass of a token and of all less likely ones, in float32.
    rest = (_mass(probabilities) - above - (ranked.cumsum() - ranked)).astype(np.float32)
    kept = logits > logits[order[0]]
    kept[order[rest > np.float32(1 - top_p)]] = True
    kept[logits.argmax()] = True
    return _masked(logits, kept)


def keep_min_p(logits: Floats, min_p: float) -> Floats:
    """Keep the tokens that are at least `min_p` times as likely as the likeliest.

    Source:
        Nguyen et al., arXiv:2407.01082.
    """
    probabilities = softmax(logits)
    least = np.float32(min_p) * probabilities.max()
    return _masked(logits, probabilities >= least)


def keep_typical(logits: Floats, mass: float) -> Floats:
    """Keep the tokens whose information is nearest the row's entropy and that reach `mass`.

    Source:
        Meister et al., arXiv:2202.00666.
    """
    probabilities = softmax(logits)
    logs = log_softmax(logits)
    certain = probabilities > 0
    entropy = -(logs[certain] * probabilities[certain]).sum()
    nearness = -np.abs(-logs - entropy)
    found, above = around(nearness, probabilities, mass)
    ranked = found[np.argsort(-nearness[found], kind="stable")]
    reached = (above + probabilities[ranked].cumsum(dtype=np.float64)).astype(np.float32)
    last = min(int((reached < np.float32(mass)).sum()), len(ranked) - 1)
    return _masked(logits, nearness >= nearness[ranked[last]])


def _mass(probabilities: Floats) -> float:
    return float(probabilities.sum(dtype=np.float64))


def _masked(logits: Floats, kept: NDArray[np.bool_]) -> Floats:
    result: Floats = np.where(kept, logits, np.float32(-np.inf))
    return result


def _draw(logits: Floats, uniform: float) -> int:
    """Return the token where the running sum of the probabilities passes `uniform` in [0, 1)."""
    weights = np.exp(logits - logits.max())
    # Two levels: a running sum in float64 over the whole row takes longer than all the rest.
    whole = len(weights) // _BLOCK * _BLOCK
    blocks = weights[:whole].reshape(-1, _BLOCK).sum(axis=1)
    sums = np.append(blocks, weights[whole:].sum()).astype(np.float64)
    block, share = _passes(sums, uniform)
    place, _ = _passes(weights[block * _BLOCK : (block + 1) * _BLOCK].astype(np.float64), share)
    return block * _BLOCK + place


def _passes(weights: NDArray[np.float64], share: float) -> tuple[int, float]:
    """Return where the running sum passes a share of the whole, and how far into that weight."""
    sums = weights.cumsum()
    target = share * sums[-1]
    # Rounding may take the target to the sum itself, which the last weight above 0 reaches.
    last = int(sums.searchsorted(sums[-1], side="left"))
    place = min(int(sums.searchsorted(target, side="right")), last)
    before = sums[place - 1] if place else 0.0
    return place, float((target - before) / weights[place])
