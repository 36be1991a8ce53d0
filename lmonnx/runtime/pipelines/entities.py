"""Scores of tokens → entities, by the rules of transformers' token-classification pipeline."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from lmonnx.runtime.numerics import Floats, softmax
from lmonnx.runtime.pipelines.tokens import Tokens
from lmonnx.runtime.tokenizer import Tokenizer

Ints = NDArray[np.int64]


class Aggregation(StrEnum):
    """How tokens become entities."""

    NONE = "none"  # every token for itself
    SIMPLE = "simple"  # neighbours of one label together
    FIRST = "first"  # a word has its first token's label
    AVERAGE = "average"  # a word has the label that its tokens score highest on average
    MAX = "max"  # a word has the label of its surest token


@dataclass(frozen=True, slots=True)
class Token:
    """A token that is labelled: `start` and `end` are characters of the text."""

    entity: str
    score: float
    index: int
    word: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Entity:
    """Neighbouring tokens of one label: `start` and `end` are characters of the text."""

    entity_group: str
    score: float
    word: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Pieces:
    """A text's tokens as they are read: `continues` says which go on with a word."""

    words: list[str]
    offsets: list[tuple[int, int]]
    index: list[int]
    continues: list[bool]
    scores: Floats  # (tokens, C)


def read_pieces(tokens: Tokens, text: str, tokenizer: Tokenizer, unknown: int | None) -> Pieces:
    """Return tokens with their words and probabilities.

    A token goes on with a word if it is longer than its text, for it has a prefix; where the
    tokenizer has none, if no space comes before it. An unknown token is its text, and a word.
    """
    prefix = bool(tokenizer.subword_prefix)
    words, continues = [], []
    for number, (start, end) in zip(tokens.ids, tokens.offsets, strict=True):
        word, shown = tokenizer.token(number), text[start:end]
        if number == unknown:
            words.append(shown)
            continues.append(False)
            continue
        words.append(word)
        inside = start > 0 and " " not in text[start - 1 : start + 1]
        continues.append(len(word) != len(shown) if prefix else inside)
    return Pieces(words, tokens.offsets, tokens.index, continues, softmax(tokens.rows))


def label_tokens(pieces: Pieces, labels: Sequence[str], ignored: Collection[str]) -> list[Token]:
    """Return every token whose best label is not ignored."""
    best = pieces.scores.argmax(axis=1).tolist()
    return [
        Token(labels[label], float(pieces.scores[i, label]), index, word, start, end)
        for i, (label, index, word, (start, end)) in enumerate(
            zip(best, pieces.index, pieces.words, pieces.offsets, strict=True)
        )
        if labels[label] not in ignored
    ]


def group_entities(
    pieces: Pieces,
    labels: Sequence[str],
    aggregation: Aggregation,
    join: Callable[[Sequence[str]], str],
    ignored: Collection[str],
) -> list[Entity]:
    """Return the entities of a text whose label is not ignored.

    Words of one tag make an entity; a label that begins one (B-) starts the next.
    """
    if not pieces.words:
        return []
    whole_words = aggregation is not Aggregation.SIMPLE
    heads = _heads(pieces.continues) if whole_words else np.arange(len(pieces.words))
    scores = _WORD_SCORES[aggregation](pieces.scores, heads)  # (words, C)
    best = scores.argmax(axis=1)
    starts = _entity_starts([labels[i] for i in best])
    sums = np.add.reduceat(scores.max(axis=1).astype(np.float64), starts)
    ends = [*starts[1:].tolist(), len(heads)]
    bounds = [*heads.tolist(), len(pieces.words)]
    found = []
    for start, end, total in zip(starts.tolist(), ends, sums.tolist(), strict=True):
        group = labels[best[start]].split("-", 1)[-1]
        if group in ignored:
            continue
        words = [pieces.words[bounds[i] : bounds[i + 1]] for i in range(start, end)]
        spelled = [join(word) if whole_words else word[0] for word in words]
        first, last = pieces.offsets[bounds[start]], pieces.offsets[bounds[end] - 1]
        score = total / (end - start)
        found.append(Entity(group, score, join(spelled), first[0], last[1]))
    return found


def merge_overlapping(entities: Sequence[Entity]) -> list[Entity]:
    """Return the longest, then the surest, of entities of several windows that overlap."""
    if not entities:
        return []
    ordered = sorted(entities, key=lambda entity: entity.start)
    merged, last = [], ordered[0]
    for entity in ordered:  # with the first, as there: an empty one comes twice
        if not last.start <= entity.start < last.end:
            merged.append(last)
            last = entity
        elif (entity.end - entity.start, entity.score) > (last.end - last.start, last.score):
            last = entity
    return [*merged, last]


def _heads(continues: Sequence[bool]) -> Ints:
    """Return where words begin; the first token begins one, whatever it is."""
    begins = ~np.array(continues)
    begins[0] = True
    return np.flatnonzero(begins)


def _entity_starts(labels: Sequence[str]) -> Ints:
    tags = np.array([label[2:] if label.startswith(("B-", "I-")) else label for label in labels])
    begins = np.array([label.startswith("B-") for label in labels])
    begins[0] = True
    begins[1:] |= tags[1:] != tags[:-1]
    return np.flatnonzero(begins)


def _first(scores: Floats, heads: Ints) -> Floats:
    return scores[heads]


def _average(scores: Floats, heads: Ints) -> Floats:
    sizes = np.diff(heads, append=len(scores))
    mean: Floats = np.add.reduceat(scores, heads, axis=0) / sizes[:, None]
    return mean


def _surest(scores: Floats, heads: Ints) -> Floats:
    words = np.repeat(np.arange(len(heads)), np.diff(heads, append=len(scores)))
    return scores[np.lexsort((-scores.max(axis=1), words))[heads]]


_WORD_SCORES: Mapping[Aggregation, Callable[[Floats, Ints], Floats]] = {
    Aggregation.SIMPLE: _first,
    Aggregation.FIRST: _first,
    Aggregation.AVERAGE: _average,
    Aggregation.MAX: _surest,
}
