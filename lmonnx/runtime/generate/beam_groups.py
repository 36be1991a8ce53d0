"""Many beam searches advanced together: a row of numpy arrays a search, one call a step for all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lmonnx.runtime.generate.params import SamplingParams
from lmonnx.runtime.generate.sampling import no_token
from lmonnx.runtime.generate.selection import Ids, mask_of
from lmonnx.runtime.numerics import Floats

_WORST = np.float32(-1e9)  # transformers' score of what must not be chosen
_NONE = np.float32(-np.inf)  # the score of an end that is not there
_LEAST, _SMALLEST = np.finfo(np.float32).min, np.finfo(np.float32).tiny
_ROOM = 32  # tokens that there is room for at first
_ARRAYS = (
    "_limits", "_penalties", "_is_eager", "_looks_far", "lengths", "done", "_can_improve",
    "_scores", "tokens", "_ended", "_ended_lengths", "_ended_tokens",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Steps:
    """The next beams: beam i of a search goes on from its beam `parents[i]` with `tokens[i]`.

    Each is (G, n).
    """

    parents: Ids
    tokens: Ids


class BeamGroups:
    """G searches of n beams each: sequences, order and scores as transformers finds them.

    They have the number of beams and the stop ids in common, and nothing else; they come by `add`
    and go by `keep`, between any two steps. Scores are float32 throughout, as transformers' are;
    of equal scores the earlier beam's lower id goes first.

    Source:
        transformers, `GenerationMixin._beam_search`.
    """

    def __init__(self, beams: int, *, stop_ids: Sequence[int], vocabulary: int) -> None:
        """Start without any.

        Args:
            beams: n.
            stop_ids: All that end a sequence (see `stopping.ids_that_stop`).
            vocabulary: V, the width of the logits.
        """
        self.beams = beams
        self._stops = mask_of(stop_ids, vocabulary)  # a model may name more
        wanted = max(2, 1 + len(set(stop_ids))) * beams
        self.candidates = min(wanted, vocabulary)
        self._wanted = min(wanted, beams * vocabulary)
        self._params: list[SamplingParams] = []
        self._limits = np.zeros(0, np.int64)
        self._penalties = np.zeros(0)
        self._is_eager = np.zeros(0, bool)  # ends with its n-th end
        self._looks_far = np.zeros(0, bool)  # hopes for the length that serves it most
        self.lengths = np.zeros(0, np.int64)  # (G,) tokens of every beam
        self.done = np.zeros(0, bool)
        self._can_improve = np.zeros(0, bool)
        self._scores = np.zeros((0, beams), np.float32)
        self.tokens = np.zeros((0, beams, _ROOM), np.int64)
        self._ended = np.zeros((0, beams), np.float32)  # the best ends so far: their scores,
        self._ended_lengths = np.zeros((0, beams), np.int64)  # 0 where nothing stands yet,
        self._ended_tokens = np.zeros((0, beams, _ROOM), np.int64)

    def __len__(self) -> int:
        return len(self._params)

    def add(self, params: Sequence[SamplingParams]) -> None:
        """Begin searches behind the others, each at its prompt."""
        new, n = len(params), self.beams
        self._params += params
        # All beams begin alike, so at first only one of them counts.
        begun = np.full((new, n), _WORST)
        begun[:, 0] = 0
        tokens = np.zeros((new, *self.tokens.shape[1:]), np.int64)
        self._append(
            _limits=np.array([each.limit for each in params]),
            _penalties=np.array([each.length_penalty for each in params]),
            _is_eager=np.array([each.early_stopping is True for each in params]),
            _looks_far=np.array(
                [each.early_stopping == "never" and each.length_penalty > 0 for each in params]
            ),
            lengths=np.zeros(new, np.int64),
            done=np.zeros(new, bool),
            _can_improve=np.ones(new, bool),
            _scores=begun,
            tokens=tokens,
            _ended=np.full((new, n), _NONE),
            _ended_lengths=np.zeros((new, n), np.int64),
            _ended_tokens=tokens,
        )

    def join(self, others: BeamGroups) -> None:
        """Take in the searches of another, of as many beams and the same stop ids, at the end."""
        self._params += others._params
        for one, other in ((self, others), (others, self)):
            while one.tokens.shape[2] < other.tokens.shape[2]:
                one.make_room()
        self._append(**{name: getattr(others, name) for name in _ARRAYS})

    def keep(self, places: Sequence[int]) -> None:
        """Go on with the searches at some places, in that order."""
        self._params = [self._params[place] for place in places]
        chosen = np.array(places, np.int64)
        for name in _ARRAYS:
            setattr(self, name, getattr(self, name)[chosen])

    def advance(self, values: Floats, ids: Ids) -> Steps:
        """Take the running beams' next tokens from each one's best.

        Args:
            values: (G, n, k) float32 log-probabilities after the rules, best first; k is at least
                `candidates`. What a rule has banned is -inf, wherever it stands.
            ids: Their tokens, (G, n, k); of equal values the lower id first.
        """
        count, k = len(values), values.shape[2]
        searches = np.arange(count)[:, None]
        flat = (values + self._scores[:, :, None]).reshape(count, -1)
        order = _ranked(flat, self._wanted)  # (G, W), best first
        scores, parents = flat[searches, order], order // k
        tokens = ids.reshape(count, -1)[searches, order]
        self.lengths += 1
        if count and self.lengths.max() > self.tokens.shape[2]:
            self.make_room()
        ends = self._stops[tokens] | (self.lengths >= self._limits)[:, None]
        self._finish(scores, parents, tokens, ends)
        running: Floats = scores + ends * _WORST
        kept = _ranked(running, self.beams)
        parents, tokens = parents[searches, kept], tokens[searches, kept]
        self._scores = running[searches, kept]
        self.tokens = self.tokens[searches, parents]
        self.tokens[searches, np.arange(self.beams), self.lengths[:, None] - 1] = tokens
        self._can_improve = self._can_improve & self._may_improve()
        full = self._ended_lengths.all(axis=1) & self._is_eager
        is_stuck = ~(scores[:, 0] > -np.inf)
        self.done = ~self._can_improve | full | ends.all(axis=1) | is_stuck
        return Steps(parents, tokens)

    def best(self, place: int) -> list[tuple[list[int], float]]:
        """Return a search's n best (tokens, score), best first; a stop id is the last token.

        Where rules leave fewer the last is there again.

        Raises:
            InputError: They leave none, or the model gave NaN.
        """
        count, n = np.count_nonzero(self._ended_lengths[place]), self._params[place].n
        if not count:
            raise no_token()
        tokens, lengths, scores = (
            rows[place] for rows in (self._ended_tokens, self._ended_lengths, self._ended)
        )
        places = [min(i, count - 1) for i in range(n)]
        return [(tokens[i, : lengths[i]].tolist(), float(scores[i])) for i in places]

    def _append(self, **rows: NDArray[Any]) -> None:
        for name, more in rows.items():
            array = getattr(self, name)
            setattr(self, name, np.concatenate([array, more.astype(array.dtype, copy=False)]))

    def make_room(self) -> None:
        """Make room for twice as many tokens."""
        for name in ("tokens", "_ended_tokens"):
            array = getattr(self, name)
            setattr(self, name, np.concatenate([array, np.zeros_like(array)], axis=2))

    def _finish(self, scores: Floats, parents: Ids, tokens: Ids, ends: NDArray[np.bool_]) -> None:
        """Take into the best ends those of the first candidates that end here."""
        n = self.beams
        real = ends[:, :n] & (scores[:, :n] > -np.inf)  # the other candidates are only spare
        if not real.any():
            return
        at = np.flatnonzero(real.any(axis=1))
        lengths = self.lengths[at]
        final = _divided(scores[at, :n], lengths, self._penalties[at])
        final[~real[at]] = _NONE
        grown = self.tokens[at[:, None], parents[at, :n]]
        grown[np.arange(len(at)), :, lengths - 1] = tokens[at, :n]
        merged = np.concatenate([self._ended[at], final], axis=1)
        ranked = _ranked(merged, n)

        each = np.arange(len(at))[:, None]

        def choose(old: NDArray[Any], new: NDArray[Any]) -> NDArray[Any]:
            both: NDArray[Any] = np.concatenate([old, new], axis=1)
            return both[each, ranked]

        self._ended[at] = merged[each, ranked]
        self._ended_tokens[at] = choose(self._ended_tokens[at], grown)
        self._ended_lengths[at] = choose(self._ended_lengths[at], lengths[:, None] * real[at])

    def _may_improve(self) -> NDArray[np.bool_]:
        """Guess, as transformers does, whether the best running beam may yet beat an end."""
        lengths = np.where(self._looks_far, self._limits, self.lengths)
        possible = _divided(self._scores[:, 0], lengths, self._penalties)
        full = self._ended_lengths.all(axis=1)
        bound = np.where(full, self._ended.min(axis=1), _WORST)
        # Unlike transformers' a search goes on for ends that are lacking, however low they score.
        lives = self._scores[:, 0] > _WORST
        improves: NDArray[np.bool_] = (possible > bound) | (lives & ~full)
        return improves


def _divided(scores: Floats, lengths: Ids, penalties: Floats) -> Floats:
    """Return scores over lengths ** penalties: (G,) or (G, n), (G,), (G,)."""
    with np.errstate(over="ignore"):  # an extreme penalty makes all scores alike
        divisors = (lengths.astype(np.float64) ** penalties).astype(np.float32)
        found: Floats = (scores.T / np.maximum(divisors, _SMALLEST)).T
    return np.maximum(found, _LEAST)


def _ranked(values: Floats, count: int) -> Ids:
    """Return the places of each row's `count` highest, best first, of a tie the earlier."""
    order: Ids = np.argsort(-values, axis=1, kind="stable")[:, :count]
    return order
