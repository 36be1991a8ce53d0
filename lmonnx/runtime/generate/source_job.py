"""A source to be decoded, and what became of it."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lmonnx.errors import InputError
from lmonnx.runtime.generate.params import SamplingParams
from lmonnx.runtime.generate.rules import Rules, lasting_bans, only_lowers, renormalizes
from lmonnx.runtime.generate.sampled import random_numbers
from lmonnx.runtime.generate.sampling import sample
from lmonnx.runtime.generate.stopping import LENGTH, STOP, ids_that_stop
from lmonnx.runtime.numerics import Floats

_UNUSED = np.random.default_rng(0)  # at temperature 0
# What needs the text of each token as it comes, or the prompt's own logits.
_REFUSED = ("stop", "logprobs", "prompt_logprobs", "prompt_lookup", "schema", "regex", "grammar")

# So many of a row's best can fall to a rule before the whole row must be looked at.
_SPARE = 16


@dataclass(frozen=True, slots=True)
class Finished:
    """One answer: its tokens, a stop id included; "stop" or "length"; a beam's score."""

    token_ids: tuple[int, ...]
    finish_reason: str
    score: float | None = None


@dataclass(frozen=True, slots=True)
class Kind:
    """What jobs that are decoded in one batch have in common."""

    beams: int
    stop_ids: tuple[int, ...]
    bans: tuple[int, ...]  # ids that no step may choose
    late: tuple[int, ...] = ()  # ids that no step before a job's minimum may choose
    spare: int = 0  # how many more of a row's best to rank, as rules may lower those
    renormalizes: bool = False  # the probabilities that the bans leave sum to one


class Manner:
    """How some sources are decoded: what their jobs have in common, prepared once."""

    def __init__(
        self, params: SamplingParams, *, start_id: int, stop_ids: Sequence[int], vocabulary: int
    ) -> None:
        """Prepare a request.

        Args:
            params: How to decode; texts among them must be ids already.
            start_id: What the decoder starts with.
            stop_ids: The model's own.
            vocabulary: V.

        Raises:
            InputError: An option does not go with an encoder-decoder, or an id is none of V.
        """
        for name in _REFUSED:
            if getattr(params, name) not in ((), None, 0):
                raise InputError(f"{name} means nothing for an encoder-decoder; leave it out")
        if params.bad_words:
            raise InputError("bad_words are texts; give their ids as bad_words_ids")
        self.params, self.start_id = params, start_id
        self.stop_ids = ids_that_stop(params, stop_ids)
        self._vocabulary = vocabulary
        bans = lasting_bans(params, self.stop_ids)
        late = tuple(index for index in self.stop_ids if index < vocabulary)
        self.minimum = params.min_new_tokens if late else 0
        normal = renormalizes(params)
        if self.minimum and normal:
            bans = None
        self.is_ruled = bans is None  # a rule must see what came before
        self.is_plain = bans is not None and params.temperature == 0
        self.only_lowers = only_lowers(params)
        self.kind = Kind(
            params.num_beams,
            self.stop_ids,
            bans or (),
            late if self.minimum else (),
            _SPARE if self.is_ruled and self.only_lowers else 0,
            bool(bans) and normal,
        )
        ends = params.forced_eos_token_id is not None
        # A token is forced after fewer tokens than the first number, and after the second.
        self.forced_at = len(params.forced_ids), params.limit - 1 if ends else -1
        self.rules()  # which refuses ids outside the vocabulary

    def rules(self) -> Rules:
        """Return the rules of a row, which remember what they have seen."""
        return Rules(
            self.params,
            prompt=[self.start_id],
            stop_ids=self.stop_ids,
            vocabulary=self._vocabulary,
            encode=_none,
        )


class SourceJob:
    """One source in the engine; `width` rows decode it."""

    def __init__(self, source: Sequence[int], manner: Manner, *, index: int = 0) -> None:
        """Take a source's tokens; `index` tells the `n` samples of it apart."""
        params = manner.params
        self.source, self.manner = list(source), manner
        self.params, self.start_id = params, manner.start_id
        self.is_ruled, self.is_plain = manner.is_ruled, manner.is_plain
        self.kind = manner.kind
        draws = params.temperature > 0
        self._rules: list[Rules] = []  # made when a row is first looked at
        self._rng = random_numbers(params.seed, index) if draws else _UNUSED
        self.generated: list[int] = []  # where there is one row
        self.results: list[Finished] = []
        self.news: deque[int] = deque()
        self.is_cancelled = False
        self.error: Exception | None = None

    @property
    def width(self) -> int:
        """How many rows decode it."""
        return self.params.num_beams

    @property
    def has_ended(self) -> bool:
        """Whether nothing more will come."""
        return bool(self.results) or self.is_cancelled or self.error is not None

    def forced(self, length: int) -> int | None:
        """Return the token that must come after `length` of them, if one must."""
        params = self.params
        if params.forced_eos_token_id is not None and length == params.limit - 1:
            return params.forced_eos_token_id
        return params.forced_ids[length] if length < len(params.forced_ids) else None

    def rules(self, row: int) -> Rules:
        """Return the rules of one of its rows."""
        if not self._rules:
            self._rules = [self.manner.rules() for _ in range(self.width)]
        return self._rules[row]

    def pick(self, logits: Floats) -> int:
        """Return the next token of the only row, by the rules and the draw."""
        return sample(self.rules(0).apply(logits, self.generated), self.params, self._rng)

    def accept(self, token: int, *, is_last: bool) -> None:
        """Take the next token of the only row."""
        self.generated.append(token)
        self.news.append(token)
        if is_last:
            self.finish([(self.generated, None)])

    def finish(self, found: Sequence[tuple[Sequence[int], float | None]]) -> None:
        """End with the best answers."""
        self.results = [
            Finished(
                tuple(tokens),
                STOP if tokens and tokens[-1] in self.manner.stop_ids else LENGTH,
                score,
            )
            for tokens, score in found
        ]


def _none(text: str) -> list[int]:
    raise InputError("bad_words are texts; give their ids as bad_words_ids")
