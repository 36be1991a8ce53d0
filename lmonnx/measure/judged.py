"""Answers beside the truth: what eval reports, and what a gate compares before and after."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from lmonnx.measure.metrics import Interval, bootstrap_interval, pearson, spearman

Rows = NDArray[np.int64]


class Judged(ABC):
    """A model's answers to some examples, one a row, and their truth.

    `MEASURED` names the figure that `score` gives. `is_sound` says that no output was NaN.
    """

    MEASURED: ClassVar[str]
    is_sound: bool

    @property
    def measured(self) -> str:
        """Return what `score` gives, and how it is counted where that is not clear."""
        return self.MEASURED

    @abstractmethod
    def __len__(self) -> int:
        """Return how many examples there are."""

    @abstractmethod
    def score(self, rows: Rows) -> float:
        """Return the figure for these examples: more is better; NaN where it is undefined."""

    @abstractmethod
    def agreement(self, other: Any) -> float:
        """Return how far two models answer alike, whatever is true, in [0, 1]."""

    @abstractmethod
    def evaluation(self) -> Any:
        """Return the figures that eval reports."""

    def drop(self, after: Any) -> float:
        """Return what the score loses against another model's answers to the same examples."""
        rows = np.arange(len(self))
        return self.score(rows) - float(after.score(rows))

    def interval(self, after: Any) -> Interval:
        """Return the 95% interval of `drop`, by resampling examples."""
        return bootstrap_interval(lambda rows: self.score(rows) - after.score(rows), len(self))


@dataclass(frozen=True, slots=True)
class Counted(Judged):
    """Examples that are each worth something: the score is the mean of `worth`, (N,)."""

    given: tuple[Any, ...]
    worth: NDArray[np.float64]
    is_sound: bool

    def __len__(self) -> int:
        return len(self.worth)

    def score(self, rows: Rows) -> float:
        """Return the mean worth."""
        return float(self.worth[rows].mean())

    def agreement(self, other: Counted) -> float:
        """Return the share of examples that get the same answer."""
        pairs = zip(self.given, other.given, strict=True)
        return float(np.mean([one == another for one, another in pairs]))


@dataclass(frozen=True, slots=True)
class Correlations:
    """How values follow the true ones on `n` examples; None where that is undefined."""

    n: int
    spearman: float | None
    pearson: float | None


@dataclass(frozen=True, slots=True)
class Valued(Judged):
    """Values beside the true ones: the score is Pearson's correlation."""

    MEASURED: ClassVar[str] = "correlation with the data"
    truth: NDArray[np.float64]
    given: NDArray[np.float64]
    is_sound: bool

    def __len__(self) -> int:
        return len(self.truth)

    def score(self, rows: Rows) -> float:
        """Return Pearson's correlation."""
        return pearson(self.truth[rows], self.given[rows])

    def agreement(self, other: Valued) -> float:
        """Return the correlation of both models' values."""
        return float(np.nan_to_num(pearson(self.given, other.given)))

    def evaluation(self) -> Any:
        """Return the correlations."""
        return self.correlations()

    def correlations(self) -> Correlations:
        """Return both correlations."""
        figures = (measure(self.truth, self.given) for measure in (spearman, pearson))
        return Correlations(len(self), *(None if np.isnan(x) else x for x in figures))


class Similar(Valued):
    """Similarities beside the true ones: the score is Spearman's correlation of the ranks."""

    __slots__ = ()
    MEASURED = "Spearman's correlation with the data"

    def score(self, rows: Rows) -> float:
        """Return Spearman's correlation."""
        return spearman(self.truth[rows], self.given[rows])
