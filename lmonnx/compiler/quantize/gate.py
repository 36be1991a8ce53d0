"""Whether a smaller bundle still answers as well: its drop against the input, with an interval."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lmonnx.bundle.manifest import Manifest, Task
from lmonnx.errors import InputError
from lmonnx.measure.accuracy import judge
from lmonnx.measure.decisions import (
    Answers,
    Decision,
    Raw,
    answer_all,
    decide,
    decision_of,
    is_finite,
    scores,
    stacked,
)
from lmonnx.measure.entities import entity_agreement, is_outside
from lmonnx.measure.judged import Judged
from lmonnx.measure.metrics import Interval, bootstrap_interval, pearson, wilson_interval
from lmonnx.measure.sentences import fit, gate_sentences
from lmonnx.measure.similarity import seeded_pairs, similarities
from lmonnx.progress import Progress
from lmonnx.runtime.pipelines.base import Pipeline
from lmonnx.runtime.tokenizer import Text

# The scores of a classifier are not calibrated to the last digit, so no changed label is free.
FLIP_COST = 0.2
# An entity is wrong when one of its tokens is, so it flips several times as often as a label.
ALIKE = 0.98

Floats = NDArray[np.floating[Any]]
Rows = NDArray[np.bool_]
Choice = NDArray[np.int64]
_EVERYTHING: Interval = (1.0, 1.0)


@dataclass(frozen=True, slots=True)
class Drop:
    """What was lost: `value` with a 95% interval, on `texts` texts.

    `measured` says what: a figure on labelled data, or what is to be expected without it.
    """

    value: float
    interval: Interval
    texts: int
    measured: str
    agreement: float
    entities: float | None = None  # of a token classifier: how alike the entities found are, F1

    @property
    def is_alike(self) -> bool:
        """Say whether entities are mostly the same: a lower drop may hide many near-ties."""
        return self.entities is None or self.entities >= ALIKE

    def as_metrics(self) -> dict[str, Any]:
        """Return what the manifest keeps."""
        alike = {} if self.entities is None else {"entities": self.entities}
        return alike | {
            "drop": self.value,
            "interval": list(self.interval),
            "texts": self.texts,
            "measured": self.measured,
            "agreement": self.agreement,
        }


class Gate(Protocol):
    """The input bundle's answers, and what another one loses against them."""

    def measure(self, model: Pipeline[Any], progress: Progress) -> Drop:
        """Return what `model` loses against the input bundle."""
        ...


def open_gate(model: Pipeline[Any], examples: Sequence[Any] | None, progress: Progress) -> Gate:
    """Answer the gate's texts by the input bundle: labelled examples, or the shipped sentences.

    Raises:
        InputError: The examples do not fit the model, or say nothing of it.
    """
    if examples is None:
        manifest = model.bundle.manifest
        texts = tuple(fit(gate_sentences(), manifest))
        reference = answer_all(model, texts, progress=progress)
        if decision_of(manifest) is Decision.VALUE and not np.ptp(stacked(reference)):
            raise InputError("the bundle gives every sentence one value; give --data")
        return PlainGate(texts, manifest, reference)
    before = judge(model, examples, progress=progress)
    if np.isnan(before.score(np.arange(len(before)))):
        raise InputError("the gate needs texts whose values differ; give other --data")
    return LabelledGate(tuple(examples), before)


@dataclass(frozen=True, slots=True)
class LabelledGate:
    """Examples, and the input bundle's answers beside their labels."""

    examples: tuple[Any, ...]
    before: Judged

    def measure(self, model: Pipeline[Any], progress: Progress) -> Drop:
        """Return what the figure of the data loses."""
        after = judge(model, self.examples, progress=progress)
        count, agreement = len(self.examples), self.before.agreement(after)
        value = self.before.drop(after)
        if not after.is_sound or np.isnan(value):  # of a constant there is no correlation
            return Drop(1.0, _EVERYTHING, count, _ended(self.before.measured, after), agreement)
        interval = self.before.interval(after)
        return Drop(value, interval, count, self.before.measured, agreement)


def _ended(measured: str, after: Judged) -> str:
    return measured if after.is_sound else f"{measured}, which a NaN ends,"


@dataclass(frozen=True, slots=True)
class PlainGate:
    """Sentences without labels, and the input bundle's outputs, which are taken for the truth."""

    texts: tuple[Text, ...]
    manifest: Manifest
    reference: Answers

    def measure(self, model: Pipeline[Any], progress: Progress) -> Drop:
        """Return what is to be expected lost."""
        answers = answer_all(model, self.texts, progress=progress)
        decision = decision_of(self.manifest)
        if not is_finite(answers):
            lost = 1.0, _EVERYTHING, "accuracy, which a NaN ends,", 0.0
        else:
            lost = _LOSSES[decision](self.reference, answers, self.manifest)
        value, interval, measured, agreement = lost
        entities = None
        if self.manifest.task is Task.TOKEN_CLASSIFICATION:
            entities = entity_agreement(self._tags(self.reference), self._tags(answers))
        return Drop(value, interval, len(self.texts), measured, agreement, entities)

    def _tags(self, answers: Answers) -> list[list[str]]:
        labels = self.manifest.head.labels if self.manifest.head else ()
        return [[labels[i] for i in decide(raw, Decision.BEST)[:, 0]] for raw in answers]


Loss = tuple[float, Interval, str, float]  # value, interval, what was measured, agreement


def _expected_loss(reference: Answers, answers: Answers, manifest: Manifest) -> Loss:
    """Take the input's scores for probabilities: a changed decision costs their difference.

    A near-tie that falls the other way costs little, but at least `FLIP_COST`, or the score that
    was given up where that is lower: of many options none may be likely.
    """
    decision = decision_of(manifest)
    counted = _COUNTED.get(manifest.task, _every)
    costs: list[Floats] = [np.empty(0)]
    same, kept = [np.empty(0, np.bool_)], [np.empty(0, np.bool_)]
    for wanted, given in zip(reference, answers, strict=True):
        if wanted.size:
            first, second = decide(wanted, decision), decide(given, decision)
            costs.append(_costs(scores(wanted, decision), first, second, decision))
            same.append((first == second).all(axis=1))
            kept.append(counted(first, second, manifest))
    cost, alike, rows = (np.concatenate(parts) for parts in (costs, same, kept))
    if not len(cost):
        raise InputError("the bundle gives no outputs for the shipped sentences; give --data")
    cost = cost[rows] if rows.any() else cost
    interval = wilson_interval(float(cost.sum()), cost.size)
    return float(cost.mean()), interval, "expected accuracy", float(alike.mean())


def _costs(given: Floats, first: Choice, second: Choice, decision: Decision) -> Floats:
    """Return what each row's changed decision costs: (rows,)."""
    if decision is Decision.EACH:
        lost = np.maximum(np.abs(2 * given - 1), FLIP_COST)
    else:
        had = np.take_along_axis(given, first, 1)
        least = np.minimum(FLIP_COST, had)
        lost = np.maximum(had - np.take_along_axis(given, second, 1), least)
    costs: Floats = np.where(first != second, lost, 0.0).mean(axis=1)
    return costs


def _every(first: Choice, second: Choice, manifest: Manifest) -> Rows:
    del second, manifest
    return np.ones(len(first), np.bool_)


def _in_entities(first: Choice, second: Choice, manifest: Manifest) -> Rows:
    """Say which tokens one of both bundles finds in an entity: most are in none, for either."""
    labels = manifest.head.labels if manifest.head else ()
    inside = np.array([not is_outside(label) for label in labels])
    rows: Rows = inside[first[:, 0]] | inside[second[:, 0]]
    return rows


def _value_loss(reference: Answers, answers: Answers, manifest: Manifest) -> Loss:
    """Return 1 minus the correlation of the values, the mean over columns."""
    del manifest
    return _correlation_loss(stacked(reference), stacked(answers), "correlation")


def _vector_loss(reference: Answers, answers: Answers, manifest: Manifest) -> Loss:
    """Return 1 minus the correlation of the similarities of pairs of texts."""
    del manifest
    pairs = seeded_pairs(len(reference))
    before, after = (similarities(stacked(each), pairs)[:, None] for each in (reference, answers))
    return _correlation_loss(before, after, "correlation of similarities")


def _correlation_loss(before: Raw | Floats, after: Raw | Floats, measured: str) -> Loss:
    def drop(rows: NDArray[np.int64]) -> float:
        columns = zip(before[rows].T, after[rows].T, strict=True)
        return 1 - float(np.mean([pearson(one, another) for one, another in columns]))

    value = drop(np.arange(len(before)))
    if np.isnan(value):  # the smaller bundle answers every text alike
        return 1.0, _EVERYTHING, measured, 0.0
    interval = bootstrap_interval(drop, len(before))
    return value, interval, f"{measured} with the input bundle", 1 - value


_COUNTED: Mapping[Task, Callable[[Choice, Choice, Manifest], Rows]] = {
    Task.TOKEN_CLASSIFICATION: _in_entities,
}
_LOSSES: Mapping[Decision, Callable[[Answers, Answers, Manifest], Loss]] = {
    Decision.BEST: _expected_loss,
    Decision.EACH: _expected_loss,
    Decision.VALUE: _value_loss,
    Decision.VECTOR: _vector_loss,
}
