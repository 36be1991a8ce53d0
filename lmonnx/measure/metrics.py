"""What was right → figures and their intervals, in numpy alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Ints = NDArray[np.int64]
Interval = tuple[float, float]
_RESAMPLES = 1000


def accuracy(truth: Ints, given: Ints) -> float:
    """Return the share of elements that are equal; for (N, C), of all yes and no decisions."""
    return float((truth == given).mean())


def macro_f1(truth: Ints, given: Ints) -> float:
    """Return the mean over classes of 2 TP / (2 TP + FP + FN), 0 where a label is never seen.

    Args:
        truth: (N,) classes, or (N, C) yes or no to each label.
        given: As `truth`.

    Source:
        scikit-learn's f1_score(average="macro", zero_division=0): over the classes that are in
        either array, or over all labels.
    """
    if truth.ndim == 1:
        classes = np.union1d(truth, given)
        truth, given = truth[:, None] == classes, given[:, None] == classes
    hits = (truth & given).sum(axis=0)
    total = truth.sum(axis=0) + given.sum(axis=0)  # 2 TP + FP + FN
    return float((2 * hits / np.maximum(total, 1)).mean())


def confusion_matrix(truth: Ints, given: Ints, classes: int) -> Ints:
    """Return (C, C) counts: the row is the true class, the column the given one.

    Source:
        scikit-learn's confusion_matrix(labels=range(classes)).
    """
    counts = np.bincount(truth * classes + given, minlength=classes * classes)
    return counts.reshape(classes, classes).astype(np.int64)


def wilson_interval(successes: float, n: int, level: float = 0.95) -> Interval:
    """Return an interval for a share that stays inside [0, 1] and is no point at 0 or 1.

    Args:
        successes: In [0, n]; a mean share times n where a trial may be right in part.
        n: Trials, at least 1.
        level: The chance that such an interval holds the true share.

    Source:
        Wilson, "Probable inference, the law of succession, and statistical inference" (1927).
    """
    z = _z(level)
    share = successes / n
    middle = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
    return max(0.0, middle - half), min(1.0, middle + half)


def paired_interval(
    both_right: int, only_first: int, only_second: int, both_wrong: int, level: float = 0.95
) -> Interval:
    """Return an interval for the first's accuracy minus the second's on the same texts.

    Source:
        Agresti and Min, "Simple improved confidence intervals for comparing matched proportions"
        (2005), §3: the Wald interval after 0.5 is added to each cell of the 2 × 2 table.
    """
    n = both_right + only_first + only_second + both_wrong + 2.0
    first, second = only_first + 0.5, only_second + 0.5
    difference = (first - second) / n
    half = _z(level) * math.sqrt(first + second - (first - second) ** 2 / n) / n
    return max(-1.0, difference - half), min(1.0, difference + half)


def bootstrap_interval(statistic: Callable[[Ints], float], count: int) -> Interval:
    """Return the 95% interval of a statistic over rows drawn anew, 1,000 times, seeded.

    Args:
        statistic: Of row numbers, (count,), of which some come several times; NaN is left out.
        count: How many rows there are.

    Source:
        Efron, "Bootstrap methods: another look at the jackknife" (1979); the percentile interval.
    """
    rng = np.random.default_rng(0)
    drawn = np.array([statistic(rng.integers(count, size=count)) for _ in range(_RESAMPLES)])
    drawn = drawn[~np.isnan(drawn)]
    if not len(drawn):
        return math.nan, math.nan
    low, high = np.quantile(drawn, (0.025, 0.975))
    return float(low), float(high)


def pearson(first: ArrayLike, second: ArrayLike) -> float:
    """Return the linear correlation in [-1, 1] of two (N,); NaN where one is constant.

    Source:
        Pearson, "Note on regression and inheritance" (1895); scipy.stats.pearsonr.
    """
    x, y = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if len(x) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return math.nan
    # Scaled first: the squares of tiny or huge values would leave float64.
    x, y = (x - x.mean()) / np.ptp(x), (y - y.mean()) / np.ptp(y)
    return float(np.clip((x @ y) / math.sqrt((x @ x) * (y @ y)), -1, 1))


def spearman(first: ArrayLike, second: ArrayLike) -> float:
    """Return the correlation of the ranks of two (N,); equal values share their mean rank.

    Source:
        Spearman, "The proof and measurement of association between two things" (1904);
        scipy.stats.spearmanr.
    """
    return pearson(_ranks(np.asarray(first)), _ranks(np.asarray(second)))


def _ranks(values: NDArray[Any]) -> NDArray[np.float64]:
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = counts.cumsum()
    ranks: NDArray[np.float64] = (last - (counts - 1) / 2)[place]
    return ranks


def _z(level: float) -> float:
    return NormalDist().inv_cdf((1 + level) / 2)
