"""A loaded bundle and labelled texts → how often it is right."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lmonnx.errors import InputError
from lmonnx.measure.datasets import Example, label_ids
from lmonnx.measure.metrics import (
    Ints,
    accuracy,
    confusion_matrix,
    macro_f1,
    pearson,
    spearman,
    wilson_interval,
)
from lmonnx.measure.parity import decisions
from lmonnx.progress import Progress, silent
from lmonnx.runtime.numerics import ACTIVATIONS
from lmonnx.runtime.pipelines.text_classification import TextClassifier
from lmonnx.runtime.tokenizer import Text

_CHUNK = 512


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What a bundle scores on `n` labelled texts.

    With several labels to a text `accuracy` is the share of right yes and no decisions, and its
    95% interval counts texts, since decisions on one text depend on each other; there is no
    matrix. A regression has correlations alone, None where they are undefined. In the matrix the
    row is the true label and the column the given one, both in the order of `labels`.
    """

    n: int
    labels: tuple[str, ...]
    accuracy: float | None = None
    macro_f1: float | None = None
    confidence_interval: tuple[float, float] | None = None
    confusion_matrix: tuple[tuple[int, ...], ...] | None = None
    pearson: float | None = None
    spearman: float | None = None


def evaluate(
    model: TextClassifier, examples: Sequence[Example], *, progress: Progress = silent
) -> Evaluation:
    """Answer every example and compare with its label.

    Raises:
        InputError: There are no examples, or a label is not one of the model's.
    """
    if not examples:
        raise InputError("there are no examples to evaluate; give at least one")
    truth = label_ids(examples, model.head)  # first: a wrong column should not cost the run
    logits = answer_all(model, [example.text for example in examples], progress=progress)
    labels = model.head.labels
    if np.issubdtype(truth.dtype, np.floating):
        values = ACTIVATIONS[model.head.activation](logits[:, 0].astype(np.float64))
        return Evaluation(
            len(examples),
            labels,
            pearson=_defined(pearson(truth, values)),
            spearman=_defined(spearman(truth, values)),
        )
    return _score(truth.astype(np.int64), decisions(logits, model.head), labels)


def answer_all(
    model: TextClassifier, texts: Sequence[Text], *, progress: Progress = silent
) -> NDArray[np.float32]:
    """Return the logits of all texts, (N, C), telling how many are done."""
    parts = [np.empty((0, len(model.head.labels)), np.float32)]
    for start in range(0, len(texts), _CHUNK):
        progress("evaluate", start, len(texts))
        parts.append(model.logits(texts[start : start + _CHUNK]))
    progress("evaluate", len(texts), len(texts))
    return np.concatenate(parts)


def _score(truth: Ints, given: Ints, labels: tuple[str, ...]) -> Evaluation:
    n = len(truth)
    matrix = None
    if truth.ndim == 1:
        given = given[:, 0]
        counts = confusion_matrix(truth, given, len(labels))
        matrix = tuple(tuple(row) for row in counts.tolist())
    share = accuracy(truth, given)
    return Evaluation(
        n, labels, share, macro_f1(truth, given), wilson_interval(share * n, n), matrix
    )


def _defined(value: float) -> float | None:
    return None if math.isnan(value) else value
