"""Answers → how right they are: against the labels, and against the float32 reference's answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Answers:
    """What a contender's variant answered in its last round."""

    labels: list[str]
    logits: list[list[float]] | None


def judge(answers: Answers, gold: Sequence[str], reference: Answers | None) -> dict[str, Any]:
    """Return accuracy, agreement and max |Δlogit| over the reference's range; None is unknown."""
    return {
        "accuracy": _same(answers.labels, gold),
        "agreement": _same(answers.labels, reference.labels) if reference else None,
        "difference": _difference(answers.logits, reference.logits) if reference else None,
    }


def reference_of(
    names: Sequence[str], answers: Mapping[str, Mapping[str, Answers]]
) -> Answers | None:
    """Return the first variant's answers of the first of `names` that ran."""
    ran = [name for name in names if name in answers]
    return next(iter(answers[ran[0]].values())) if ran else None


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
