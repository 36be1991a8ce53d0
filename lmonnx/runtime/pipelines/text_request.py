"""The options of a call of an encoder-decoder → what it asks for: checked, bad words as ids."""

from __future__ import annotations

from dataclasses import dataclass, replace

from lmonnx.errors import InputError
from lmonnx.runtime.generate.pair_tokenizer import TargetTokenizer
from lmonnx.runtime.generate.params import SamplingParams
from lmonnx.runtime.pipelines.languages import Frame
from lmonnx.runtime.pipelines.source_parts import Split


@dataclass(frozen=True, slots=True)
class Request:
    """What a call asks for: how to decode, what stands around a source, how it is cut."""

    params: SamplingParams
    frame: Frame
    split: Split


def in_ids(params: SamplingParams, frame: Frame, tokenizer: TargetTokenizer) -> SamplingParams:
    """Return params whose bad words are ids, and that force what the frame does."""
    words = tuple(tuple(tokenizer.within(word)) for word in params.bad_words)
    forced = (*frame.forced, *params.forced_ids)
    return replace(
        params,
        bad_words=(),
        bad_words_ids=params.bad_words_ids + tuple(filter(None, words)),
        forced_ids=forced,
    )


def chosen_split(asked: Split | str | None, own: Split, known: frozenset[Split]) -> Split:
    """Return what was asked for, unasked a task's own rule.

    Raises:
        InputError: It is none that the task knows.
    """
    if asked is None:
        return own
    if not any(asked == each for each in known):
        names = ", ".join(name for name in Split if name in known)
        raise InputError(f"split is {asked!r:.40}, must be one of {names}")
    return Split(asked)
