"""Beam search as a state machine: log-probabilities in, parents and tokens out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lmonnx.runtime.generate.logprobs import likeliest
from lmonnx.runtime.generate.params import SamplingParams
from lmonnx.runtime.generate.selection import Ids
from lmonnx.runtime.numerics import Floats

_WORST = np.float32(-1e9)  # transformers' score of what must not be chosen


@dataclass(frozen=True, slots=True)
class Step:
    """The next beams: beam i goes on from beam `parents[i]` with `tokens[i]`; each (beams,)."""

    parents: Ids
    tokens: Ids


@dataclass(frozen=True, slots=True)
class _Finished:
    """A place among the best ends so far; `is_real` says that something stands there."""

    score: np.float32
    tokens: tuple[int, ...]
    is_real: bool


class BeamSearch:
    """The beams of one request: sequences, order and scores as transformers finds them.

    Call `advance` (or `advance_top`) with the running beams' log-probabilities until `is_done`,
    each time moving the cache's rows to the step's parents. Scores are float32 throughout, as
    transformers' are; of equal scores the earlier beam's lower id goes first.

    Source:
        transformers, `GenerationMixin._beam_search`.
    """

    def __init__(
        self,
        params: SamplingParams,
        *,
        stop_ids: Sequence[int],
        vocabulary: int,
    ) -> None:
        """Start with the prompt.

        Args:
            params: `num_beams`, `n`, `max_new_tokens`, `length_penalty` and `early_stopping`.
            stop_ids: All that end a sequence (see `stopping.ids_that_stop`).
            vocabulary: V, the width of the logits.
        """
        self._params, self._beams = params, params.num_beams
        self._stop_ids = np.array(sorted(set(stop_ids)), np.int64)
        wanted = max(2, 1 + len(self._stop_ids)) * self._beams
        self.candidates = min(wanted, vocabulary)
        self._wanted = min(wanted, self._beams * vocabulary)
        # All beams begin alike, so at first only one of them counts.
        self._scores: Floats = np.full(self._beams, _WORST)
        self._scores[0] = 0
        self.sequences: list[tuple[int, ...]] = [()] * self._beams
        self._finished = [_Finished(_WORST, (), is_real=False)] * self._beams
        self._can_improve = True
        self.is_done = False

    def advance(self, logprobs: Floats) -> Step:
        """Take the running beams' next tokens.

        Args:
            logprobs: (beams, V) float32, the log-softmax after the rules; (1, V) while all beams
                are alike.
        """
        totals = logprobs + self._scores[:, None]  # (beams, V)
        flat = totals.ravel()
        best = np.array(likeliest(flat, self._wanted), np.int64)
        return self._step(flat[best], best // totals.shape[1], best % totals.shape[1])

    def advance_top(self, values: Floats, ids: Ids) -> Step:
        """Take the running beams' next tokens from each one's best.

        Args:
            values: (beams, `candidates`) float32 log-probabilities, best first; or one row.
            ids: Their tokens, int64; of equal values the lower id first.
        """
        totals = values + self._scores[:, None]  # (beams, candidates)
        flat, ids = totals.ravel(), np.broadcast_to(ids, totals.shape).ravel()
        best = np.array(likeliest(flat, self._wanted), np.int64)
        return self._step(flat[best], best // totals.shape[1], ids[best])

    def best(self) -> list[tuple[list[int], float]]:
        """Return the n best (tokens, score), best first; a stop id is the last of its tokens."""
        found = [end for end in self._finished if end.is_real][: self._params.n]
        return [(list(end.tokens), float(end.score)) for end in found]

    def _step(self, scores: Floats, parents: Ids, tokens: Ids) -> Step:
        """Choose from the best candidates, (wanted,) each, best first."""
        grown = [
            (*self.sequences[parent], token)
            for parent, token in zip(parents.tolist(), tokens.tolist(), strict=True)
        ]
        length = len(grown[0])
        ends = np.isin(tokens, self._stop_ids) | (length >= self._params.limit)
        running = scores + ends * _WORST
        kept = likeliest(running, self._beams)
        self.sequences, self._scores = [grown[i] for i in kept], running[kept]
        self._finish(scores, ends, grown)
        self._can_improve = self._can_improve and self._may_improve(length)
        self.is_done = not self._can_improve or self._is_full() or bool(ends.all())
        return Step(parents[kept], tokens[kept])

    def _finish(
        self, scores: Floats, ends: NDArray[np.bool_], grown: list[tuple[int, ...]]
    ) -> None:
        """Take into the best ends those of the first candidates that end here."""
        real = ends & (np.arange(len(ends)) < self._beams)  # the others are only spare
        final = scores / np.float32(len(grown[0]) ** self._params.length_penalty) + ~real * _WORST
        merged = self._finished + [
            _Finished(*end) for end in zip(final, grown, real.tolist(), strict=True)
        ]
        ranked = likeliest(np.array([end.score for end in merged], np.float32), self._beams)
        self._finished = [merged[i] for i in ranked]

    def _may_improve(self, length: int) -> bool:
        """Guess, as transformers does, whether the best running beam may yet beat an end."""
        params = self._params
        if params.early_stopping == "never" and params.length_penalty > 0:
            length = params.limit  # the length that serves a beam most
        possible = self._scores[0] / np.float32(length**params.length_penalty)
        worst = min(end.score for end in self._finished)
        return any(possible > (worst if end.is_real else _WORST) for end in self._finished)

    def _is_full(self) -> bool:
        return self._params.early_stopping is True and all(end.is_real for end in self._finished)
