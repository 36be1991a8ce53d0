"""One sequence that grows by the token that is likeliest, or drawn."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest

import numpy as np

from lmonnx.runtime.generate.decoder import Logits
from lmonnx.runtime.generate.drafting import Drafter
from lmonnx.runtime.generate.logprobs import TokenLogprob, token_logprob
from lmonnx.runtime.generate.params import SamplingParams
from lmonnx.runtime.generate.request import Chunk, Completion, Job
from lmonnx.runtime.generate.sampling import sample
from lmonnx.runtime.generate.slots import Slots
from lmonnx.runtime.generate.stopping import STOP, Stopping
from lmonnx.runtime.generate.voice import Voice


class Sampled(Job):
    """A completion by greedy choice or sampling; `index` tells the `n` samples of a prompt apart.

    A drafted token is kept where it is the one that is picked anyway, each by its own draw, so
    the completion is the same with drafts and without.
    """

    def __init__(
        self,
        prompt: Sequence[int],
        params: SamplingParams,
        voice: Voice,
        *,
        index: int = 0,
        drafter: Drafter | None = None,
    ) -> None:
        super().__init__(prompt, room=params.limit)
        self._params = params
        self._rng = random_numbers(params.seed, index)
        self._rules = voice.rules(params, self.prompt)
        self._stopping = Stopping(params, stop_ids=voice.stops(params))
        self._detokenizer = voice.detokenizer(self.prompt)
        self._constraint = voice.constrain(params)
        self._drafter = drafter
        self._generated: list[int] = []
        self._pieces: list[str] = []
        self._logprobs: list[TokenLogprob] = []
        self._of_prompt: list[TokenLogprob | None] = [None]
        self._plain = params.temperature == 0 and self._rules.is_idle and self._constraint is None

    @property
    def reads_from(self) -> int:
        """Place of the first token after which logits are wanted."""
        return super().reads_from if self._params.prompt_logprobs is None else 0

    def read_prompt(self, logits: Logits, start: int) -> None:
        """Note the log-probabilities of the prompt's own tokens, if they are asked for."""
        count = self._params.prompt_logprobs
        if count is None:
            return
        for row, token in zip(logits, self.prompt[start + 1 :], strict=False):
            self._of_prompt.append(token_logprob(row, token, count))

    def take(self, logits: Logits, slots: Slots, drafted: Sequence[int] = ()) -> None:
        """Pick the next token, and one after each drafted token that was the one picked."""
        for row, guess in zip_longest(logits, drafted):
            token = self._pick(row)
            self._accept(token, row)
            if self.is_done or token != guess:
                break
        if drafted and self._drafter is not None:
            self._drafter.judge(len(drafted), len(self.rows[0]))

    def draft(self, limit: int) -> Sequence[int]:
        """Return what the drafter guesses, within what may still be generated."""
        left = self._params.limit - len(self._generated) - 1
        if self._drafter is None or min(limit, left) < 1:
            return ()
        return self._drafter.propose(self.rows[0], min(limit, left))

    def completion(self) -> Completion:
        """Return the whole answer, once the job is done."""
        params = self._params
        return Completion(
            "".join(self._pieces),
            tuple(self._generated),
            self._stopping.finish_reason or "length",
            len(self.prompt),
            len(self._generated),
            None if params.logprobs is None else tuple(self._logprobs),
            None if params.prompt_logprobs is None else tuple(self._of_prompt),
        )

    def _pick(self, row: Logits) -> int:
        """Return the next token of a row (V,)."""
        if self._plain:
            token = int(row.argmax())
            # NaN is an argmax too: `sample` says what is wrong.
            return token if row[token] == row[token] else sample(row, self._params, self._rng)
        ruled = self._rules.apply(row, self._generated)
        if self._constraint is not None:
            ruled = self._constraint.mask(ruled)
        return sample(ruled, self._params, self._rng)

    def _accept(self, token: int, row: Logits) -> None:
        self.rows[0].append(token)
        self._generated.append(token)
        stopping = self._stopping
        ends = stopping.ends(token)
        text = stopping.push(token, "" if ends else self._detokenizer.push(token))
        if self._constraint is not None and not ends:
            self._constraint.accept(token)
            if self._constraint.is_finished:  # nothing but an end could follow
                stopping.finish_reason = STOP
        if stopping.finish_reason is not None:
            text += stopping.finish(self._detokenizer.flush())
            self.is_done = True
        found: tuple[TokenLogprob, ...] = ()
        if self._params.logprobs is not None:
            found = (token_logprob(row, token, self._params.logprobs),)
            self._logprobs += found
        self._pieces.append(text)
        self.news.append(Chunk(text, (token,), stopping.finish_reason, found))


def random_numbers(seed: int | None, index: int) -> np.random.Generator:
    """Return the generator of a prompt's sample: the first sample's is that of a lone one."""
    if seed is None:
        return np.random.default_rng()
    return np.random.default_rng([seed, index] if index else seed)
