"""Texts with labels → how often a sequence classifier, or a regression, is right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from lmonnx.bundle.manifest import Activation
from lmonnx.errors import BundleError
from lmonnx.measure.datasets import Example, label_ids
from lmonnx.measure.decisions import chunks, is_finite
from lmonnx.measure.judged import Judged, Rows, Valued
from lmonnx.measure.metrics import (
    Interval,
    Ints,
    accuracy,
    confusion_matrix,
    macro_f1,
    paired_interval,
    wilson_interval,
)
from lmonnx.progress import Progress


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


@dataclass(frozen=True, slots=True)
class Classified(Judged):
    """Label ids beside the true ones, (N, 1), or yes and no to each label, (N, C)."""

    MEASURED: ClassVar[str] = "accuracy"
    labels: tuple[str, ...]
    truth: Ints
    given: Ints
    is_sound: bool
    is_choice: bool  # one label of several

    def __len__(self) -> int:
        return len(self.truth)

    def score(self, rows: Rows) -> float:
        """Return the share of right labels, or of right decisions."""
        return accuracy(self.truth[rows], self.given[rows])

    def agreement(self, other: Classified) -> float:
        """Return the share of texts that get the same labels."""
        return float((self.given == other.given).all(axis=1).mean())

    def interval(self, after: Classified) -> Interval:
        """Return the paired interval of a drop in accuracy; of several labels a resampled one."""
        if self.truth.shape[1] > 1:  # the decisions on one text are no independent trials
            return Judged.interval(self, after)
        right = [(each.given == each.truth).all(axis=1) for each in (self, after)]
        return paired_interval(*_table(*right))

    def evaluation(self) -> Evaluation:
        """Return accuracy, macro-F1 and the confusion matrix."""
        n, matrix, truth, given = len(self), None, self.truth, self.given
        if self.is_choice:
            truth, given = truth[:, 0], given[:, 0]
            counts = confusion_matrix(truth, given, len(self.labels))
            matrix = tuple(tuple(row) for row in counts.tolist())
        share = accuracy(truth, given)
        interval = wilson_interval(share * n, n)
        return Evaluation(n, self.labels, share, macro_f1(truth, given), interval, matrix)


@dataclass(frozen=True, slots=True)
class Regressed(Valued):
    """A regression's values."""

    labels: tuple[str, ...]

    def evaluation(self) -> Evaluation:
        """Return the correlations."""
        found = self.correlations()
        return Evaluation(found.n, self.labels, pearson=found.pearson, spearman=found.spearman)


def judge_labels(model: Any, examples: Sequence[Example], progress: Progress) -> Judged:
    """Answer every example, long ones as a call would, and set the answer beside its label.

    Raises:
        InputError: A label is not one of the model's.
    """
    head = model.bundle.manifest.head
    if head is None:
        raise BundleError(f"{model.bundle.path} has no labels; export it again")
    truth = label_ids(examples, head)  # first: a wrong column should not cost the run
    texts = [example.text for example in examples]
    # Of several windows a call takes the mean of scores: that of raw logits may decide otherwise.
    scores = np.array([row for some in chunks(texts, progress) for row, _ in model.scores(some)])
    sound = is_finite([scores])
    if np.issubdtype(truth.dtype, np.floating):
        return Regressed(truth.astype(np.float64), scores[:, 0], sound, head.labels)
    best = head.activation is Activation.SOFTMAX
    given = scores.argmax(axis=1, keepdims=True) if best else scores > 0.5  # (N, 1) or (N, C)
    rows = truth.astype(np.int64).reshape(len(truth), -1)
    return Classified(head.labels, rows, given.astype(np.int64), sound, truth.ndim == 1)


def _table(before: NDArray[np.bool_], after: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """Count texts by who is right: both, only the first, only the second, neither."""
    cells = (before & after, before & ~after, ~before & after, ~before & ~after)
    both, first, second, neither = (int(cell.sum()) for cell in cells)
    return both, first, second, neither
