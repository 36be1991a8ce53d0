"""Several sequences of one prompt that compete: the beams, each in a slot."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lmonnx.errors import InputError
from lmonnx.runtime.generate.beam import BeamSearch, Step
from lmonnx.runtime.generate.decoder import Logits
from lmonnx.runtime.generate.logprobs import likeliest, log_softmax
from lmonnx.runtime.generate.params import SamplingParams
from lmonnx.runtime.generate.request import Chunk, Completion, Job
from lmonnx.runtime.generate.sampling import no_token
from lmonnx.runtime.generate.slots import Slots
from lmonnx.runtime.generate.voice import Voice


class Beams(Job):
    """The `num_beams` likeliest completions; they share the prompt's rows until they differ."""

    def __init__(self, prompt: Sequence[int], params: SamplingParams, voice: Voice) -> None:
        for name in ("stop", "logprobs", "prompt_logprobs"):
            if getattr(params, name) not in ((), None):
                raise InputError(f"beam search takes no {name}; leave it out, or give num_beams=1")
        super().__init__(prompt, room=params.limit)
        self.width = params.num_beams
        self._voice, self._stops = voice, voice.stops(params)
        self._rules = [voice.rules(params, self.prompt) for _ in range(self.width)]
        self._is_idle = self._rules[0].is_idle
        self._search = BeamSearch(
            params,
            stop_ids=self._stops,
            vocabulary=voice.vocabulary,
        )
        self._best: list[tuple[list[int], float]] = []

    def take(self, logits: Logits, slots: Slots, drafted: Sequence[int] = ()) -> None:
        """Advance the search by a token, and move the rows of beams that change parents."""
        if np.isnan(logits.max()):
            raise no_token()
        step = (
            self._search.advance_top(*self._top(logits)) if self._is_idle else self._ruled(logits)
        )
        parents, tokens = step.parents.tolist(), step.tokens.tolist()
        slots.fork(self.slots, parents)
        self.rows = [
            [*self.rows[parent], token] for parent, token in zip(parents, tokens, strict=True)
        ]
        self.is_done = self._search.is_done
        if self.is_done:
            self._best = self._search.best()
            self.news.append(Chunk("", (), "stop"))

    def completions(self) -> list[Completion]:
        """Return the n best, best first, once the job is done."""
        return [self._completion(tokens, score) for tokens, score in self._best]

    def _ruled(self, logits: Logits) -> Step:
        scores = log_softmax(logits)  # (1, V) at first, then (beams, V)
        begun = [row[len(self.prompt) :] for row in self.rows]
        ruled = [
            rules.apply(row, tokens)
            for rules, row, tokens in zip(self._rules, scores, begun, strict=False)
        ]
        return self._search.advance(np.stack(ruled))

    def _top(self, logits: Logits) -> tuple[Logits, NDArray[np.int64]]:
        """Return each row's best log-probabilities and their tokens: (beams, candidates)."""
        ids = np.array([likeliest(row, self._search.candidates) for row in logits], np.int64)
        highest = logits.max(axis=-1, keepdims=True)
        total = np.log(np.exp(logits - highest).sum(axis=-1, keepdims=True))
        return np.take_along_axis(logits, ids, axis=-1) - highest - total, ids

    def _completion(self, tokens: list[int], score: float) -> Completion:
        stopped = bool(tokens) and tokens[-1] in self._stops
        voice = self._voice.detokenizer(self.prompt)
        pieces = [voice.push(token) for token in (tokens[:-1] if stopped else tokens)]
        return Completion(
            "".join(pieces) + voice.flush(),
            tuple(tokens),
            "stop" if stopped else "length",
            len(self.prompt),
            len(tokens),
            score=score,
        )
