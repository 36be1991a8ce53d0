"""Answers → how right they are: against what people said, and against the float32 reference's."""

from __future__ import annotations

import base64
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from math import sqrt
from operator import mul
from typing import Any

from workload import Items

Vectors = list["array[float]"]


@dataclass(frozen=True, slots=True)
class Answers:
    """What a contender's variant answered in its last round."""

    labels: list[str]
    logits: list[list[float]] | None
    vectors: Vectors | None = None


def read_answers(reply: Mapping[str, Any], count: int) -> Answers:
    """Return the answers of a contender's reply about `count` items."""
    packed = reply.get("vectors")
    if packed is None:
        return Answers(reply["labels"], reply["logits"])
    values = array("f", base64.b64decode(packed))  # little-endian, as every machine here
    width = len(values) // count
    if width * count != len(values):
        raise ValueError(f"{len(values)} numbers are no vectors of {count} texts")
    rows = [values[start : start + width] for start in range(0, len(values), width)]
    return Answers([], None, rows)


def judge(answers: Answers, items: Items, reference: Answers | None) -> dict[str, Any]:
    """Return what table.QUALITIES names; None is unknown.

    Of labels accuracy, agreement, and max |Δlogit| over the reference's range; of vectors
    Spearman's correlation of pairs' cosines with their scores, and the mean cosine to the
    reference's.
    """
    if answers.vectors is not None:
        return {
            "spearman": _likeness(answers.vectors, items.scores),
            "cosine": _cosine_to(answers.vectors, reference.vectors if reference else None),
        }
    return {
        "accuracy": _same(answers.labels, items.labels),
        "agreement": _same(answers.labels, reference.labels) if reference else None,
        "difference": _difference(answers.logits, reference.logits) if reference else None,
    }


def reference_of(
    names: Sequence[str], answers: Mapping[str, Mapping[str, Answers]]
) -> Answers | None:
    """Return the first variant's answers of the first of `names` that ran."""
    ran = [name for name in names if name in answers]
    return next(iter(answers[ran[0]].values())) if ran else None


def spearman(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Return Spearman's rank correlation: Pearson's of the ranks, ties at their mean rank."""
    return _pearson(_ranks(ours), _ranks(theirs))


def _likeness(vectors: Vectors, scores: Sequence[float]) -> float | None:
    if len(scores) < 2:
        return None
    pairs = zip(vectors[::2], vectors[1::2], strict=False)  # a trial may end within a pair
    return round(spearman([_cosine(a, b) for a, b in pairs][: len(scores)], scores), 6)


def _cosine_to(vectors: Vectors, reference: Vectors | None) -> float | None:
    if reference is None:
        return None
    found = [_cosine(a, b) for a, b in zip(vectors, reference, strict=True)]
    return round(sum(found) / len(found), 8)


def _cosine(a: Sequence[float], b: Sequence[float]) -> float:
    norms = sqrt(sum(map(mul, a, a))) * sqrt(sum(map(mul, b, b)))
    return sum(map(mul, a, b)) / norms if norms else 0.0


def _ranks(values: Sequence[float]) -> list[float]:
    ranks = [0.0] * len(values)
    order = sorted(range(len(values)), key=values.__getitem__)
    before = 0
    for _, group in groupby(order, key=values.__getitem__):
        tied = list(group)
        for place in tied:
            ranks[place] = before + (len(tied) + 1) / 2
        before += len(tied)
    return ranks


def _pearson(xs: Sequence[float], ys: Sequence[float]) -> float:
    middle_x, middle_y = sum(xs) / len(xs), sum(ys) / len(ys)
    dx, dy = [x - middle_x for x in xs], [y - middle_y for y in ys]
    spread = sqrt(sum(map(mul, dx, dx)) * sum(map(mul, dy, dy)))
    return sum(map(mul, dx, dy)) / spread if spread else 0.0


def _same(labels: Sequence[str], others: Sequence[str]) -> float | None:
    if not others:
        return None
    pairs = zip(labels, others, strict=True)
    return round(sum(ours == theirs for ours, theirs in pairs) / len(others), 6)


def _difference(
    logits: list[list[float]] | None, reference: list[list[float]] | None
) -> float | None:
    if not logits or not reference:
        return None
    ours = [value for row in logits for value in row]
    theirs = [value for row in reference for value in row]
    spread = max(theirs) - min(theirs) or 1.0
    return max(abs(a - b) for a, b in zip(ours, theirs, strict=True)) / spread
