"""Start and end logits → the likeliest spans of a context, by transformers' rules."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from lmonnx.runtime.numerics import Floats, softmax
from lmonnx.runtime.pipelines.base import Window
from lmonnx.runtime.pipelines.tokens import spans_of
from lmonnx.runtime.tokenizer import Encoding, Spans

_BLOCK = 2**20  # spans scored at a time
MASKED = -10000.0  # a logit that leaves nothing of a probability

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Answer:
    """A part of the context, "" where there is no answer: `start` and `end` are its characters."""

    score: float
    start: int
    end: int
    answer: str


@dataclass(frozen=True, slots=True)
class Search:
    """Which spans are answers."""

    top_k: int
    max_answer_len: int  # tokens
    handle_impossible_answer: bool  # that there is no answer is one too
    align_to_words: bool

    @property
    def candidates(self) -> int:
        """How many spans of a window are kept: some are of the same words."""
        return self.top_k * 2 + 10 if self.align_to_words else self.top_k


@dataclass(frozen=True, slots=True)
class Found:
    """A window's likeliest spans, first and last token, and how likely it has no answer."""

    starts: Ints
    ends: Ints
    scores: Floats
    null: float


def find_spans(logits: Floats, encoding: Encoding, context: int, search: Search) -> Found:
    """Return the likeliest spans of a window from its start and end logits, (2, S).

    Tokens beside the context's, which is the text `context` of the pair, have no share but for
    the class token, whose is that of no answer.
    """
    spans = spans_of(encoding)
    allowed = np.array([part == context for part in spans.parts])
    if not len(allowed):
        return Found(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0), 0.0)
    if spans.parts[0] is None:  # the class token, which a text may spell too
        allowed |= np.array(encoding.ids) == encoding.ids[0]
    starts, ends = softmax(np.where(allowed, logits, MASKED).astype(np.float64))
    null = float(starts[0] * ends[0])
    starts, ends = np.where(allowed, starts, 0.0), np.where(allowed, ends, 0.0)
    starts[0] = ends[0] = 0.0
    return Found(*_likeliest(starts, ends, search.max_answer_len, search.candidates), null)


def _likeliest(starts: Floats, ends: Floats, length: int, count: int) -> tuple[Ints, Ints, Floats]:
    """Return the `count` highest of start × end, of at most `length` tokens, none of them 0."""
    size = len(starts)
    length = min(length, size)
    shown = sliding_window_view(np.append(ends, np.zeros(length - 1)), length)  # (S, length)
    best: list[tuple[Ints, Floats]] = []
    step = max(1, _BLOCK // length)
    for first in range(0, size, step):
        scores = (starts[first : first + step, None] * shown[first : first + step]).ravel()
        kept = _highest(scores, count)
        best.append((kept + first * length, scores[kept]))
    places = np.concatenate([places for places, _ in best])
    scores = np.concatenate([scores for _, scores in best])
    kept = _highest(scores, count)
    kept = kept[scores[kept] > 0]
    heads, more = np.divmod(places[kept], length)
    return heads, heads + more, scores[kept]


def _highest(scores: Floats, count: int) -> Ints:
    """Return where the `count` highest are, highest first, of equals the first."""
    if count < len(scores):
        kept = np.sort(np.argpartition(-scores, count)[:count])
    else:
        kept = np.arange(len(scores))
    return kept[np.argsort(-scores[kept], kind="stable")]


def merge_answers(
    windows: Sequence[Window[Found]], text: str, context: int, search: Search
) -> list[Answer]:
    """Return the `top_k` answers of a context's windows, likeliest first.

    The scores of spans of one wording are added, whatever the case; the first says where it is.
    """
    scores: dict[str, float] = {}
    places: dict[str, tuple[int, int]] = {}
    null = 1.0
    for window in windows:
        spans = spans_of(window.encoding)
        null = min(null, window.row.null)
        found = zip(_characters(window.row, spans, context, search), window.row.scores, strict=True)
        for (start, end), score in found:
            wording = text[start:end].lower()
            places.setdefault(wording, (start, end))
            scores[wording] = scores.get(wording, 0.0) + float(score)
    answers = [Answer(scores[w], start, end, text[start:end]) for w, (start, end) in places.items()]
    if search.handle_impossible_answer or not answers:
        answers.append(Answer(null if search.handle_impossible_answer else 0.0, 0, 0, ""))
    return sorted(answers, key=lambda answer: -answer.score)[: search.top_k]


def _characters(
    found: Found, spans: Spans, context: int, search: Search
) -> Iterator[tuple[int, int]]:
    """Yield the characters of each span, of whole words where the tokenizer knows words."""
    words = _words(spans, context) if search.align_to_words else {}
    for start, end in zip(found.starts.tolist(), found.ends.tolist(), strict=True):
        first, last = words.get(spans.words[start]), words.get(spans.words[end])
        if first is None or last is None:
            first, last = spans.offsets[start], spans.offsets[end]
        yield first[0], last[1]


def _words(spans: Spans, context: int) -> dict[int | None, tuple[int, int]]:
    """Return the characters of the words of the context that a window shows."""
    found: dict[int | None, tuple[int, int]] = {}
    for word, part, (start, end) in zip(spans.words, spans.parts, spans.offsets, strict=True):
        if part == context and word is not None:
            found[word] = (found.get(word, (start, end))[0], end)
    return found
