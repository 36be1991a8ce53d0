"""Tagged words → how well a token classifier finds the entities, as seqeval counts them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from lmonnx.errors import InputError
from lmonnx.measure.decisions import chunks
from lmonnx.measure.judged import Judged, Rows
from lmonnx.measure.tables import read_content
from lmonnx.progress import Progress
from lmonnx.runtime.pipelines.base import Pipeline

SUFFIXES = (".conll", ".bio", ".iob", ".iob2", ".txt", ".tsv")
_DOCUMENT = "-DOCSTART-"  # a line of CoNLL-2003 that is no sentence
_HOW = "write a token and its tag a line, between tab or space, and a blank line after a sentence"
_PREFIXES = {"B": "B", "I": "I", "E": "E", "L": "E", "S": "S", "U": "S"}  # BIO, BIOES, BILOU
_LEAST = 3  # letters that PER and person must share

Entity = tuple[str, int, int]  # its type, its first word, the word after its last
Tag = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Tagged:
    """A sentence's words, and a tag such as B-PER beside each."""

    words: tuple[str, ...]
    tags: tuple[str, ...]

    @property
    def text(self) -> str:
        """Return the words, joined by spaces."""
        return " ".join(self.words)


@dataclass(frozen=True, slots=True)
class EntityScores:
    """How many entities of `n` sentences were found, and of those given how many are right."""

    n: int
    precision: float
    recall: float
    f1: float


def read_tagged(path: Path) -> list[Tagged]:
    """Read a CoNLL file: a token first and its tag last on a line, a blank line after a sentence.

    Comments, which begin with "#" and stand before a sentence, are skipped.

    Raises:
        InputError: The file is of another kind, is not UTF-8, has no sentences, or a line has one
            column; file and line are named.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(
            f"{path}: {path.suffix or 'no suffix'} is no file of tagged words, use "
            f"{', '.join(SUFFIXES)}; {_HOW}"
        )
    sentences: list[Tagged] = []
    rows: list[tuple[str, str]] = []
    for number, line in enumerate([*read_content(path).split("\n"), ""], 1):
        if not line.strip() or line.startswith(_DOCUMENT):
            if rows:
                words, tags = zip(*rows, strict=True)
                sentences.append(Tagged(words, tags))
            rows = []
            continue
        cells = line.rstrip("\r").split("\t") if "\t" in line else line.split()
        if not rows and _is_comment(cells):
            continue
        if len(cells) < 2 or not cells[-1].strip():
            raise InputError(f"{path}, line {number}: {len(cells)} column; {_HOW}")
        rows.append((cells[0].strip(), cells[-1].strip()))
    if not sentences:
        raise InputError(f"{path} has no sentences; {_HOW}")
    return sentences


def _is_comment(cells: Sequence[str]) -> bool:
    """Say whether a line before a sentence tells of it, as `# id 7`: it is no `#` with a tag."""
    last = cells[-1].strip()
    tagged = len(cells) > 1 and (is_outside(last) or last.partition("-")[0] in _PREFIXES)
    return cells[0].startswith("#") and not tagged


def is_outside(tag: str) -> bool:
    """Say whether a label means that a token is in no entity."""
    return tag in {"O", "0"}


def find_entities(tags: Sequence[str]) -> set[Entity]:
    """Return the entities of a sentence.

    One starts at B or S, at any other tag whose type is not the one before, and after E or S.

    Source:
        seqeval 1.2.2, `get_entities`, its default mode, for BIO, IOB2 and BIOES.
    """
    outside: Tag = ("O", "")
    read = [outside, *map(_read, tags), outside]
    starts = [  # of entities, and of what lies between them
        place
        for place, (before, (prefix, kind)) in enumerate(pairwise(read))
        if prefix in {"B", "S"} or before[0] in {"E", "S"} or kind != before[1]
    ]
    return {(read[a + 1][1], a, b) for a, b in pairwise(starts) if read[a + 1][1]}


def entity_agreement(one: Sequence[Sequence[str]], another: Sequence[Sequence[str]]) -> float:
    """Return how alike two models' entities in the same texts are: F1, and 1 where none has any.

    Args:
        one: Each text's tags, by the first model.
        another: Those by the second, as many.
    """
    both = total = 0
    for first, second in zip(one, another, strict=True):
        found, given = find_entities(first), find_entities(second)
        both += len(found & given)
        total += len(found) + len(given)
    return 2 * both / total if total else 1.0


def _read(tag: str) -> Tag:
    if is_outside(tag):
        return "O", ""
    prefix, _, kind = tag.partition("-")
    if prefix in _PREFIXES:  # a bare one is of a type without a name
        return _PREFIXES[prefix], kind or "_"
    return "I", tag


@dataclass(frozen=True, slots=True)
class Found(Judged):
    """The tags given to every sentence; `counts`, (N, 3): entities that are right, given, true."""

    MEASURED: ClassVar[str] = "entity F1"
    given: tuple[tuple[str, ...], ...]
    counts: NDArray[np.int64]
    is_sound: bool

    def __len__(self) -> int:
        return len(self.counts)

    def score(self, rows: Rows) -> float:
        """Return F1; NaN where no entity is given nor true."""
        right, given, true = self.counts[rows].sum(axis=0).tolist()
        return 2 * right / (given + true) if given + true else math.nan

    def agreement(self, other: Found) -> float:
        """Return the share of words that get the same tag."""
        pairs = zip(self.given, other.given, strict=True)
        same = [a == b for one, another in pairs for a, b in zip(one, another, strict=True)]
        return float(np.mean(same))

    def evaluation(self) -> EntityScores:
        """Return precision, recall and F1."""
        right, given, true = self.counts.sum(axis=0).tolist()
        figures = (right / max(1, given), right / max(1, true), 2 * right / max(1, given + true))
        return EntityScores(len(self), *figures)


def judge_entities(model: Pipeline[Any], examples: Sequence[Tagged], progress: Progress) -> Found:
    """Tag every word as its first token is labelled, and count entities.

    Raises:
        InputError: The file has no entities, or none of a type that the model has.
    """
    names = _names(
        examples, model.bundle.manifest.head.labels if model.bundle.manifest.head else ()
    )
    given, counts, sound = [], [], True
    for example, tokens in _tokens(model, examples, progress):
        sound &= all(math.isfinite(token.score) for token in tokens)
        tags = tag_words(example.words, [(t.start, t.end, t.entity) for t in tokens])
        found = find_entities(tags)
        true = {(names.get(kind, kind), *place) for kind, *place in find_entities(example.tags)}
        given.append(tags)
        counts.append((len(found & true), len(found), len(true)))
    return Found(tuple(given), np.array(counts, np.int64), sound)


def _tokens(
    model: Any, examples: Sequence[Tagged], progress: Progress
) -> Iterator[tuple[Tagged, Any]]:
    for some in chunks(examples, progress):
        yield from zip(some, model([e.text for e in some], ignore_labels=()), strict=True)


def tag_words(words: Sequence[str], tokens: Sequence[tuple[int, int, str]]) -> tuple[str, ...]:
    """Return the label of each word's first token, O where it has none.

    Args:
        words: Of a text that joins them by spaces.
        tokens: Where each token starts and ends in it, and its label, in order.
    """
    tags, start, at = [], 0, 0
    for word in words:
        end = start + len(word)
        while at < len(tokens) and tokens[at][1] <= start:
            at += 1
        inside = at < len(tokens) and tokens[at][0] < end
        tags.append(tokens[at][2] if inside else "O")
        start = end + 1
    return tuple(tags)


def _names(examples: Sequence[Tagged], labels: Sequence[str]) -> dict[str, str]:
    """Return the model's name of each type in the file: PER is also Per and person.

    Raises:
        InputError: The file has no entities, or none of a type that the model has.
    """
    types = sorted({kind for e in examples for kind, _, _ in find_entities(e.tags)})
    known = sorted({kind for label in labels if (kind := _read(label)[1])})
    if not types:
        raise InputError(
            f"no word of the {len(examples)} sentences is in an entity; check the data"
        )
    names = {kind: same[0] for kind in types if len(same := _alike(kind, known)) == 1}
    if not names:
        raise InputError(
            f"the data has the entities {', '.join(types):.99}, the model {', '.join(known):.200}; "
            "give data of the model's kinds"
        )
    return names


def _alike(kind: str, known: Sequence[str]) -> list[str]:
    if kind in known:
        return [kind]
    name = kind.casefold()
    same = [other for other in known if other.casefold() == name]
    return same or [
        o for o in known if min(len(o), len(name)) >= _LEAST and _begins(name, o.casefold())
    ]


def _begins(name: str, other: str) -> bool:
    return name.startswith(other) or other.startswith(name)
