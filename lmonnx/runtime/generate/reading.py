"""Text that is read, not continued: what may come next, and how likely it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from lmonnx.errors import InputError
from lmonnx.runtime.generate.logprobs import likeliest, log_softmax
from lmonnx.runtime.generate.scored import Scored

Run = Callable[[Sequence[Scored]], None]


@dataclass(frozen=True, slots=True)
class NextToken:
    """A token that may come next, and how likely it is."""

    token: int
    text: str
    probability: float
    logprob: float


@dataclass(frozen=True, slots=True)
class Score:
    """How likely a text is: natural log-probabilities of `token_ids` from the second on."""

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    perplexity: float


def next_tokens(
    ids: Sequence[int], k: int, run: Run, text: Callable[[int], str]
) -> list[NextToken]:
    """Return the `k` likeliest tokens after a prompt, likeliest first.

    Raises:
        InputError: `k` is no count, or the prompt does not fit.
    """
    if type(k) is not int or k < 1:
        raise InputError(f"k is {k!r:.40}, must be a whole number of at least 1")
    job = Scored(ids, first=len(ids))
    run([job])
    logprobs = log_softmax(job.last)
    return [
        NextToken(token, text(token), float(np.exp(logprobs[token])), float(logprobs[token]))
        for token in likeliest(job.last, k)
    ]


def score(
    ids: Sequence[int], run: Run, *, context: int, window: int | None, stride: int | None
) -> Score:
    """Return how likely each token is, given those before it in its window.

    Args:
        ids: Two or more, of any number.
        run: Runs jobs to their ends.
        context: The most tokens that the engine takes.
        window: Tokens that are read together; None is `context`.
        stride: How far the window moves at a time; None is half of it.

    Raises:
        InputError: There are too few tokens, or window and stride do not fit.
    """
    size = context if window is None else window
    if type(size) is not int or not 2 <= size <= context:
        raise InputError(f"window is {window!r:.40}, must be from 2 to {context} tokens")
    step = max(1, size // 2) if stride is None else stride
    if type(step) is not int or not 1 <= step < size:
        raise InputError(f"stride is {stride!r:.40}, must be from 1 to {size - 1} tokens")
    if len(ids) < 2:
        raise InputError("the text has less than two tokens, so none follows another")
    logprobs: list[float] = []
    for start, first in _windows(len(ids), size, step):
        job = Scored(ids[start : start + size], first=first - start)
        run([job])
        logprobs += job.logprobs.tolist()
    return Score(tuple(ids), tuple(logprobs), float(np.exp(-np.mean(logprobs))))


def _windows(length: int, size: int, step: int) -> Iterator[tuple[int, int]]:
    """Yield where each window starts, and the first token in it that was not scored before."""
    first = 1
    for start in range(0, max(1, length - size + step), step):
        yield start, first
        first = min(start + size, length)
