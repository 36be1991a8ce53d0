"""Whether a smaller bundle still answers as well: its drop against the input, with an interval."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lmonnx.bundle.manifest import Activation, Head
from lmonnx.errors import InputError
from lmonnx.measure.accuracy import answer_all
from lmonnx.measure.datasets import Example, label_ids
from lmonnx.measure.metrics import Interval, paired_interval, pearson, wilson_interval
from lmonnx.measure.parity import decisions
from lmonnx.progress import Progress
from lmonnx.runtime.numerics import ACTIVATIONS
from lmonnx.runtime.pipelines.text_classification import TextClassifier
from lmonnx.runtime.tokenizer import Text

# The scores of a classifier are not calibrated to the last digit, so no changed label is free.
FLIP_COST = 0.2
_RESAMPLES = 1000

Logits = NDArray[np.float32]
Rows = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Drop:
    """What was lost: `value` with a 95% interval, on `texts` texts.

    `measured` says what: accuracy on labels, or the accuracy to be expected without them.
    """

    value: float
    interval: Interval
    texts: int
    measured: str
    agreement: float

    def as_metrics(self) -> dict[str, Any]:
        """Return what the manifest keeps."""
        return {
            "drop": self.value,
            "interval": list(self.interval),
            "texts": self.texts,
            "measured": self.measured,
            "agreement": self.agreement,
        }


@dataclass(frozen=True, slots=True)
class Gate:
    """The input bundle's answers to the gate's texts, and their labels where there are some."""

    texts: tuple[Text, ...]
    head: Head
    reference: Logits
    truth: NDArray[Any] | None

    @classmethod
    def open(
        cls,
        model: TextClassifier,
        texts: Sequence[Text],
        examples: Sequence[Example] | None,
        progress: Progress,
    ) -> Gate:
        """Answer the texts by the input bundle; `examples`, if given, are their labels."""
        truth = None if examples is None else label_ids(examples, model.head)
        reference = answer_all(model, texts, progress=progress)
        return cls(tuple(texts), model.head, reference, truth)

    def measure(self, model: TextClassifier, progress: Progress) -> Drop:
        """Return what `model` loses against the input bundle."""
        logits = answer_all(model, self.texts, progress=progress)
        same = decisions(logits, self.head) == decisions(self.reference, self.head)
        value, interval, measured = self._drop(logits)
        return Drop(value, interval, len(self.texts), measured, float(same.all(axis=1).mean()))

    def _drop(self, logits: Logits) -> tuple[float, Interval, str]:
        if not np.isfinite(logits).all():
            return 1.0, (1.0, 1.0), "accuracy, which a NaN ends,"
        if self.head.activation is Activation.NONE or self._has_values():
            return self._correlation_drop(logits)
        if self.truth is None:
            return self._expected_drop(logits)
        truth = self.truth.reshape(len(self.truth), -1)
        before = (decisions(self.reference, self.head) == truth).mean(axis=1)
        after = (decisions(logits, self.head) == truth).mean(axis=1)
        if truth.shape[1] > 1:  # the decisions on one text are no independent trials
            interval = self._resampled(lambda rows: float((before - after)[rows].mean()))
        else:
            interval = paired_interval(*_table(before == 1, after == 1))
        return float(before.mean() - after.mean()), interval, "accuracy"

    def _has_values(self) -> bool:
        """Say whether the labels are numbers, as for a regression behind a sigmoid."""
        return self.truth is not None and np.issubdtype(self.truth.dtype, np.floating)

    def _expected_drop(self, logits: Logits) -> tuple[float, Interval, str]:
        """Take the input's scores for probabilities: a changed label costs their difference.

        A near-tie that falls the other way costs little, but at least `FLIP_COST`.
        """
        scores = ACTIVATIONS[self.head.activation](self.reference.astype(np.float64))
        first, second = decisions(self.reference, self.head), decisions(logits, self.head)
        if self.head.activation is Activation.SOFTMAX:
            lost = np.take_along_axis(scores, first, 1) - np.take_along_axis(scores, second, 1)
        else:
            lost = np.abs(2 * scores - 1)
        costs = np.where(first != second, np.maximum(lost, FLIP_COST), 0.0).mean(axis=1)  # (N,)
        interval = wilson_interval(float(costs.sum()), costs.size)
        return float(costs.mean()), interval, "expected accuracy"

    def _correlation_drop(self, logits: Logits) -> tuple[float, Interval, str]:
        """Compare correlations with the truth, or take 1 minus that with the input bundle."""
        reference, given = self.reference[:, 0], logits[:, 0]
        truth = reference if self.truth is None else self.truth.reshape(-1)

        def drop(rows: Rows) -> float:
            before = pearson(reference[rows], truth[rows])
            return before - pearson(given[rows], truth[rows])

        value = drop(np.arange(len(reference)))
        if np.isnan(pearson(reference, truth)):
            raise InputError("the gate needs texts whose values differ; give other --data")
        if np.isnan(value):  # the smaller bundle answers every text alike
            return 1.0, (1.0, 1.0), "correlation"
        measured = "correlation with " + ("the input bundle" if self.truth is None else "the data")
        return value, self._resampled(drop), measured

    def _resampled(self, drop: Callable[[Rows], float]) -> Interval:
        """Return the 95% interval of `drop` over texts drawn anew (Efron's bootstrap, seeded)."""
        rng, count = np.random.default_rng(0), len(self.texts)
        drawn = [drop(rng.integers(count, size=count)) for _ in range(_RESAMPLES)]
        low, high = np.nanquantile(drawn, (0.025, 0.975))
        return float(low), float(high)


def _table(before: NDArray[np.bool_], after: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """Count texts by who is right: both, only the first, only the second, neither."""
    cells = (before & after, before & ~after, ~before & after, ~before & ~after)
    both, first, second, neither = (int(cell.sum()) for cell in cells)
    return both, first, second, neither
