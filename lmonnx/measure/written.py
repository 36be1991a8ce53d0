"""Texts that an encoder-decoder writes, beside what it should write: BLEU to character errors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, ClassVar

import numpy as np

from lmonnx.bundle.manifest import Task
from lmonnx.errors import InputError
from lmonnx.measure import bleu, edits, rouge
from lmonnx.measure.bleu import Counts, References
from lmonnx.measure.decisions import chunks
from lmonnx.measure.judged import Judged, Rows
from lmonnx.measure.metrics import Interval, bootstrap_interval
from lmonnx.measure.references import Rewriting
from lmonnx.progress import Progress, silent
from lmonnx.runtime.pipelines.source_parts import Refused

Texts = Sequence[str]


@dataclass(frozen=True, slots=True)
class Figure:
    """A metric of all texts, its 95% interval over texts where one can be had, and how counted."""

    value: float
    interval: Interval | None = None
    signature: str | None = None


@dataclass(frozen=True, slots=True)
class TextScores:
    """What a bundle scores on `n` texts, by the name of the metric."""

    n: int
    metrics: Mapping[str, Figure]


@dataclass(frozen=True, slots=True)
class Measure:
    """A metric that adds up: what each text adds, (N, K), and what their sum, (K,), is worth.

    The value of right answers is `scale`, or 0 where it is an error.
    """

    count: Callable[[Texts, References], Counts]
    score: Callable[[Counts], float]
    signature: Callable[[References], str] | None = None
    scale: float = 1.0
    is_error: bool = False


@dataclass(frozen=True, slots=True)
class WholeMeasure:
    """A metric that another package counts of all texts at once, with its signature."""

    whole: Callable[[Texts, References], tuple[float, str]]
    scale: float = 100.0
    is_error: bool = False


def _rouge_counts(given: Texts, references: References) -> Counts:
    scores = rouge.rouge_scores(given, references)
    return np.concatenate([scores, np.ones((len(scores), 1))], axis=1)


def _rouge_mean(place: int, total: Counts) -> float:
    return float(total[place] / total[-1])


def _pairs(
    count: Callable[[str, tuple[str, ...]], tuple[int, int]], given: Texts, references: References
) -> Counts:
    rows = [count(text, true) for text, true in zip(given, references, strict=True)]
    return np.array(rows, np.float64)


def _ratio(total: Counts) -> float:
    return float(total[0] / total[1]) if total[1] else float(total[0] > 0)


def _sacrebleu(name: str, *, is_error: bool = False) -> Measure:
    return Measure(
        partial(bleu.counts, name),
        partial(bleu.score_of, name),
        partial(bleu.signature, name),
        scale=100.0,
        is_error=is_error,
    )


MEASURES: Mapping[str, Measure | WholeMeasure] = {
    "bleu": _sacrebleu("bleu"),
    "chrf": WholeMeasure(partial(bleu.corpus_score, "chrf")),
    "ter": _sacrebleu("ter", is_error=True),
    **{
        kind: Measure(_rouge_counts, partial(_rouge_mean, place), signature=rouge.signature)
        for place, kind in enumerate(rouge.KINDS)
    },
    "exact_match": Measure(partial(_pairs, edits.exact_matches), _ratio),
    "cer": Measure(partial(_pairs, edits.character_errors), _ratio, is_error=True),
}
# How each is written where people read it.
TITLES: Mapping[str, str] = {
    "bleu": "BLEU",
    "chrf": "chrF",
    "ter": "TER",
    "rouge1": "ROUGE-1",
    "rouge2": "ROUGE-2",
    "rougeL": "ROUGE-L",
    "rougeLsum": "ROUGE-Lsum",
    "exact_match": "exact match",
    "cer": "CER",
}
# What a task is judged by unasked; the first is what a gate compares.
TASKS: Mapping[Task, tuple[str, ...]] = {
    Task.TRANSLATION: ("bleu", "chrf", "ter"),
    Task.SUMMARIZATION: ("rouge1", "rouge2", "rougeL", "rougeLsum"),
    Task.TEXT_TO_TEXT: ("exact_match", "cer", "chrf"),
}


@dataclass(frozen=True, slots=True)
class Written(Judged):
    """Answers beside their references; the score is the first of `names`, 1 for right answers."""

    MEASURED: ClassVar[str] = "the first metric"
    given: tuple[str, ...]
    references: tuple[tuple[str, ...], ...]
    names: tuple[str, ...]
    is_sound: bool = True
    _held: dict[Any, Counts] = field(default_factory=dict, compare=False)

    def __len__(self) -> int:
        return len(self.given)

    @property
    def measured(self) -> str:
        """Return the first metric's name, its scale and its signature."""
        name = self.names[0]
        measure = MEASURES[name]
        stated = TITLES[name] if measure.scale == 1 else f"{TITLES[name]} / {measure.scale:.0f}"
        signature = self._figure(measure).signature
        return (f"1 − {stated}" if measure.is_error else stated) + (
            f" ({signature})" if signature else ""
        )

    def score(self, rows: Rows) -> float:
        """Return the first metric of some texts; an error rate is taken from 1."""
        measure = MEASURES[self.names[0]]
        if isinstance(measure, Measure):
            value = measure.score(self._counts(measure)[rows].sum(axis=0))
        else:
            given = [self.given[row] for row in rows]
            value = measure.whole(given, [self.references[row] for row in rows])[0]
        value /= measure.scale
        return 1 - value if measure.is_error else value

    def agreement(self, other: Written) -> float:
        """Return the share of texts that get the same answer."""
        return float(np.mean(np.array(self.given) == np.array(other.given)))

    def evaluation(self) -> TextScores:
        """Return every metric, with its interval."""
        return TextScores(len(self), {name: self._figure(MEASURES[name]) for name in self.names})

    def _figure(self, measure: Measure | WholeMeasure) -> Figure:
        if isinstance(measure, WholeMeasure):
            value, signature = measure.whole(self.given, self.references)
            return Figure(value, None, signature)
        found = self._counts(measure)
        return Figure(
            measure.score(found.sum(axis=0)),
            _interval(measure, found),
            measure.signature(self.references) if measure.signature else None,
        )

    def _counts(self, measure: Measure) -> Counts:
        if measure.count not in self._held:  # of ROUGE once for all its kinds
            self._held[measure.count] = measure.count(self.given, self.references)
        return self._held[measure.count]


def _interval(measure: Measure, found: Counts) -> Interval | None:
    if len(found) < 2:
        return None
    return bootstrap_interval(lambda rows: measure.score(found[rows].sum(axis=0)), len(found))


def judge_texts(
    model: Any,
    examples: Sequence[Rewriting],
    progress: Progress = silent,
    *,
    metrics: Sequence[str] = (),
    params: Any = None,
    **asked: Any,
) -> Written:
    """Answer every source and set the best answer beside its references.

    Args:
        model: A loaded encoder-decoder.
        examples: What is asked, and what is right.
        progress: Told how far it is.
        metrics: Of MEASURES; empty takes the task's.
        params: How to decode; None is as the checkpoint wants it.
        asked: More of what the model's call takes: languages, prefix, split.

    Raises:
        InputError: A metric is unknown, or a source or an option is wrong.
    """
    names = tuple(dict.fromkeys(metrics)) or TASKS[model.bundle.manifest.task]
    if unknown := [name for name in names if name not in MEASURES]:
        raise InputError(f"{unknown[0]!r:.40} is no metric; give one of {', '.join(MEASURES)}")
    check_installed(names)
    texts = (example.source for some in chunks(examples, progress) for example in some)
    given: list[str] = []
    if params is None:
        params = model.defaults_for(asked.get("source_lang"), asked.get("target_lang"))
    params = replace(params, n=1)
    for found in model.attempts(texts, params, **asked):
        if isinstance(found, Refused):
            raise InputError(f"row {found.row + 1} {found.why}")
        given.append(found[0].text)
    return Written(tuple(given), tuple(example.references for example in examples), names)


def check_installed(names: Sequence[str]) -> None:
    """Refuse metrics whose package is missing, before any text is answered.

    Raises:
        UnsupportedError: One is missing.
    """
    for name in names:
        measure = MEASURES[name]
        one = ("a",), (("a",),)
        _ = measure.count(*one) if isinstance(measure, Measure) else measure.whole(*one)
