"""What is found without sorting is what sorting would find."""

import numpy as np
import pytest

from lmonnx.runtime.generate.selection import around, nth_highest
from lmonnx.runtime.numerics import softmax

RNG = np.random.default_rng(0)
ROWS = {
    "smooth": RNG.standard_normal(20_000) * 3,
    "flat": RNG.standard_normal(20_000) * 1e-5,
    "tied": RNG.integers(0, 4, 20_000),
    "one value": np.zeros(20_000),
    "holed": np.where(RNG.random(20_000) < 0.9, -np.inf, RNG.standard_normal(20_000)),
    "steep": RNG.standard_normal(20_000) * 1e6,
    "far": RNG.standard_normal(20_000) - 1e9,
    "outliers": np.r_[RNG.standard_normal(19_990), RNG.standard_normal(10) * 1e30],
    "short": RNG.standard_normal(40),
}


@pytest.mark.parametrize("name", ROWS)
def test_the_nth_highest_is_that_of_the_sorted_row(name):
    row = ROWS[name].astype(np.float32)
    ordered = np.sort(row)[::-1]
    for n in {1, 2, 39, 40, min(513, len(row)), len(row) // 2, len(row)}:
        assert nth_highest(row, n) == ordered[n - 1]


@pytest.mark.parametrize("wanted", [0.0, 0.01, 0.5, 0.9, 0.9999, 1.0])
@pytest.mark.parametrize("name", ROWS)
def test_the_border_is_among_what_is_found(name, wanted):
    row = ROWS[name].astype(np.float32)
    weights = softmax(row)
    ids, above = around(row, weights, wanted)
    higher = row > row[ids].max()
    assert above == pytest.approx(weights[higher].sum(dtype=np.float64), abs=1e-9)
    assert above <= wanted + 1e-5
    assert above + weights[ids].sum() >= min(wanted, 1) - 1e-5
    assert not np.isin(row[np.setdiff1d(np.arange(len(row)), ids)], row[ids]).any()


def test_few_are_left_to_sort():
    row = ROWS["smooth"].astype(np.float32)
    assert all(len(around(row, softmax(row), p)[0]) < 600 for p in (0.1, 0.5, 0.9, 0.99))
