"""Logits → logits: penalties, bans and forced tokens of one request, in transformers' order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from lmonnx.errors import InputError
from lmonnx.runtime.generate.history import History
from lmonnx.runtime.generate.logprobs import log_softmax
from lmonnx.runtime.generate.params import SamplingParams
from lmonnx.runtime.numerics import Floats

Rule = Callable[[Floats, History], None]  # changes a row (V,) in place
Word = tuple[int, ...]
_PLAIN = SamplingParams()


class Rules:
    """What one request does to its logits before a token is picked.

    A step's cost depends on the rules, not on how long the text is. `apply` may be called with any
    `generated`: what was seen is undone back to the common beginning, so beams that change parents
    and drafts that are rejected need no care.

    Source:
        transformers, `GenerationMixin._get_logits_processor`; OpenAI's API reference for the
        presence and the frequency penalty, which stand behind the repetition penalty as in vLLM.
    """

    def __init__(
        self,
        params: SamplingParams,
        *,
        prompt: Sequence[int],
        stop_ids: Sequence[int],
        vocabulary: int,
        encode: Callable[[str], list[int]],
    ) -> None:
        """Prepare the rules that `params` ask for.

        Args:
            params: The request's options.
            prompt: The prompt's tokens.
            stop_ids: All that end the completion (see `stopping.ids_that_stop`).
            vocabulary: V, the width of the logits.
            encode: Text → ids without special tokens, for `bad_words`.

        Raises:
            InputError: An id is outside the vocabulary, or a bad word has no tokens.
        """
        words = [word for text in params.bad_words for word in _spellings(text, encode)]
        words += params.bad_words_ids
        _check(params, words, vocabulary)
        stop_ids = [index for index in stop_ids if index < vocabulary]  # a model may name more
        made = (
            _bias(params),
            _repetition(params),
            _frequency(params),
            _presence(params),
            _no_repeat(params),
            _bad_words(words, stop_ids),
            _minimum(params, stop_ids),
            _forced_start(params),
            _forced_end(params),
            _suppressed(params),
        )
        self._rules: list[Rule] = [rule for rule in made if rule is not None]
        if self._rules and renormalizes(params):
            self._rules.append(_normalize)
        counts = (params.repetition_penalty, params.frequency_penalty, params.presence_penalty)
        self._history = History(
            prompt if self._rules else (),
            ngram=params.no_repeat_ngram_size,
            tallies=counts != (1, 0, 0),
        )

    @property
    def is_idle(self) -> bool:
        """Whether `apply` returns every row as it is."""
        return not self._rules

    def apply(self, logits: Floats, generated: Sequence[int]) -> Floats:
        """Return what the rules make of a row; the row itself, not a copy, where there are none.

        Args:
            logits: (V,) float32, left as it is; for beam search its log-softmax.
            generated: The completion's tokens so far.
        """
        if not self._rules:
            return logits
        row: Floats = logits.copy()
        self.change(row, generated)
        return row

    def change(self, row: Floats, generated: Sequence[int]) -> None:
        """Do in place what `apply` does to a row (V,)."""
        self._history.follow(generated)
        for rule in self._rules:
            rule(row, self._history)


def lasting_bans(params: SamplingParams, stop_ids: Sequence[int]) -> tuple[int, ...] | None:
    """Return the ids that no step may choose; None where a rule needs more than that to be told.

    `forced_ids`, `forced_eos_token_id` and `min_new_tokens` are left to the caller.
    """
    looked_at = (
        "logit_bias", "repetition_penalty", "frequency_penalty", "presence_penalty",
        "no_repeat_ngram_size", "bad_words",
    )  # fmt: skip
    if any(getattr(params, name) != getattr(_PLAIN, name) for name in looked_at):
        return None
    if any(len(word) > 1 for word in params.bad_words_ids):
        return None
    words = {word[0] for word in params.bad_words_ids if word[0] not in stop_ids}
    return tuple(sorted(words.union(params.suppress_tokens)))


def only_lowers(params: SamplingParams) -> bool:
    """Say whether no rule can raise a log-probability; forced tokens are left to the caller."""
    return (
        max((params.logit_bias or {}).values(), default=0) <= 0
        and params.repetition_penalty >= 1
        and min(params.frequency_penalty, params.presence_penalty) >= 0
        and not renormalizes(params)
    )


def renormalizes(params: SamplingParams) -> bool:
    """Say whether scores change where they are made to sum to one again: where beams compete."""
    return params.renormalize_logits and params.num_beams > 1


def _bias(params: SamplingParams) -> Rule | None:
    if not params.logit_bias:
        return None
    ids = _array(params.logit_bias)
    values = np.array(list(params.logit_bias.values()), np.float32)

    def rule(row: Floats, _: History) -> None:
        row[ids] += values

    return rule


def _repetition(params: SamplingParams) -> Rule | None:
    penalty = float(params.repetition_penalty)

    def rule(row: Floats, history: History) -> None:
        ids = history.whole.ids
        seen = row[ids]
        row[ids] = np.where(seen < 0, seen * penalty, seen / penalty)

    return rule if penalty != 1 else None


def _frequency(params: SamplingParams) -> Rule | None:
    penalty = float(params.frequency_penalty)

    def rule(row: Floats, history: History) -> None:
        row[history.completion.ids] -= penalty * history.completion.counts

    return rule if penalty else None


def _presence(params: SamplingParams) -> Rule | None:
    penalty = float(params.presence_penalty)

    def rule(row: Floats, history: History) -> None:
        row[history.completion.ids] -= penalty

    return rule if penalty else None


def _no_repeat(params: SamplingParams) -> Rule | None:
    def rule(row: Floats, history: History) -> None:
        row[history.followers()] = -np.inf

    return rule if params.no_repeat_ngram_size else None


def _bad_words(words: Iterable[Word], stop_ids: Sequence[int]) -> Rule | None:
    """Ban a word's last token where its others stand; never a stop id for itself."""
    kept = {word for word in words if len(word) > 1 or word[0] not in stop_ids}
    alone = _array(word[0] for word in kept if len(word) == 1)
    by_last: dict[int, list[Word]] = {}
    for word in kept:
        if len(word) > 1:
            by_last.setdefault(word[-2], []).append(word)

    def rule(row: Floats, history: History) -> None:
        row[alone] = -np.inf
        tokens = history.tokens
        for word in by_last.get(tokens[-1], ()) if tokens else ():
            # `<=` as in transformers: a context shorter than the word bans nothing.
            if len(word) <= len(tokens) and tuple(tokens[1 - len(word) :]) == word[:-1]:
                row[word[-1]] = -np.inf

    return rule if kept else None


def _minimum(params: SamplingParams, stop_ids: Sequence[int]) -> Rule | None:
    ids = _array(stop_ids)

    def rule(row: Floats, history: History) -> None:
        if len(history.generated) < params.min_new_tokens:
            row[ids] = -np.inf

    return rule if params.min_new_tokens and len(ids) else None


def _forced_start(params: SamplingParams) -> Rule | None:
    def rule(row: Floats, history: History) -> None:
        if len(history.generated) < len(params.forced_ids):
            _force(row, params.forced_ids[len(history.generated)])

    return rule if params.forced_ids else None


def _forced_end(params: SamplingParams) -> Rule | None:
    token = params.forced_eos_token_id

    def rule(row: Floats, history: History) -> None:
        if token is not None and len(history.generated) == params.limit - 1:
            _force(row, token)

    return rule if token is not None else None


def _suppressed(params: SamplingParams) -> Rule | None:
    ids = _array(params.suppress_tokens)

    def rule(row: Floats, _: History) -> None:
        row[ids] = -np.inf

    return rule if len(ids) else None


def _normalize(row: Floats, _: History) -> None:
    if row.max() > -np.inf:
        row[:] = log_softmax(row)


def _force(row: Floats, token: int) -> None:
    row[:] = -np.inf
    row[token] = 0


def _array(ids: Iterable[int]) -> NDArray[np.int64]:
    return np.fromiter(ids, np.int64)


def _spellings(text: str, encode: Callable[[str], list[int]]) -> list[Word]:
    """Return a word's tokens at the start of a text and after a space."""
    bare = text.lstrip(" ")
    words = {tuple(encode(spelled)) for spelled in (bare, f" {bare}")} - {()}
    if not words:
        raise InputError(f"the bad word {text!r:.40} has no tokens; leave it out")
    return sorted(words)


def _check(params: SamplingParams, words: Iterable[Word], vocabulary: int) -> None:
    """Refuse ids that the logits do not have."""
    end = params.forced_eos_token_id
    used = {
        "logit_bias": params.logit_bias or (),
        "bad_words": (index for word in words for index in word),
        "suppress_tokens": params.suppress_tokens,
        "forced_ids": params.forced_ids,
        "forced_eos_token_id": () if end is None else (end,),
        "stop_ids": params.stop_ids,
    }
    for name, ids in used.items():
        if (highest := max(ids, default=0)) >= vocabulary:
            raise InputError(f"{name} holds {highest}; the model's ids go to {vocabulary - 1}")
