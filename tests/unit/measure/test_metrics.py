"""Figures against values worked out by hand, and the laws that they keep."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmonnx.measure.metrics import (
    accuracy,
    bootstrap_interval,
    confusion_matrix,
    macro_f1,
    paired_interval,
    pearson,
    spearman,
    wilson_interval,
)

TRUTH, GIVEN = np.array([0, 0, 1, 1, 2, 2]), np.array([0, 1, 1, 1, 2, 0])
counts = st.integers(0, 500)
classes = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1)
values = st.floats(-1e6, 1e6, allow_subnormal=False)


def test_accuracy_is_the_share_of_equal_elements():
    assert accuracy(TRUTH, GIVEN) == pytest.approx(4 / 6)
    assert accuracy(np.array([[1, 0], [1, 1]]), np.array([[1, 1], [1, 1]])) == 0.75


def test_macro_f1_is_the_mean_of_each_class():
    # 0: TP 1, FP 1, FN 1 → 1/2; 1: TP 2, FP 1, FN 0 → 4/5; 2: TP 1, FP 0, FN 1 → 2/3
    assert macro_f1(TRUTH, GIVEN) == pytest.approx((1 / 2 + 4 / 5 + 2 / 3) / 3)


def test_macro_f1_counts_only_classes_that_are_seen():
    assert macro_f1(np.array([0, 0, 3]), np.array([0, 0, 3])) == 1
    assert macro_f1(np.array([0, 0]), np.array([0, 5])) == pytest.approx((2 / 3 + 0) / 2)


def test_macro_f1_of_several_labels_is_over_all_of_them():
    truth = np.array([[1, 0, 0], [1, 1, 0]])
    given_ = np.array([[1, 0, 0], [0, 1, 0]])
    assert macro_f1(truth, given_) == pytest.approx((2 / 3 + 1 + 0) / 3)


def test_rows_of_the_confusion_matrix_are_true_classes():
    assert confusion_matrix(TRUTH, GIVEN, 4).tolist() == [
        [1, 1, 0, 0],
        [0, 2, 0, 0],
        [1, 0, 1, 0],
        [0, 0, 0, 0],
    ]


@given(classes)
def test_the_confusion_matrix_holds_every_text_once_and_its_diagonal_the_right_ones(pairs):
    truth, given_ = np.array(pairs).T
    matrix = confusion_matrix(truth, given_, 5)
    assert matrix.sum() == len(pairs)
    assert np.trace(matrix) / len(pairs) == pytest.approx(accuracy(truth, given_))


def test_wilson_interval_is_wilsons():
    # p = 0.5, n = 10, z = 1.96: (0.5 + 0.19207 ± 1.96 · sqrt(0.025 + 0.0096036)) / 1.384146
    low, high = wilson_interval(5, 10)
    assert (low, high) == pytest.approx((0.23659, 0.76341), abs=1e-5)
    assert wilson_interval(0, 10) == pytest.approx((0, 0.27753), abs=1e-5)
    assert wilson_interval(10, 10) == pytest.approx((0.72247, 1), abs=1e-5)
    assert wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)  # Newcombe 1998


@given(st.integers(1, 10_000), st.floats(0, 1), st.floats(0.5, 0.99))
def test_a_wilson_interval_holds_its_share_and_grows_with_the_level(n, share, level):
    low, high = wilson_interval(share * n, n, level)
    wider = wilson_interval(share * n, n, 0.995)
    assert 0 <= low <= share + 1e-12
    assert share - 1e-12 <= high <= 1
    assert wider[0] <= low + 1e-12
    assert high <= wider[1] + 1e-12


def test_paired_interval_is_agresti_and_mins():
    # b* = 15.5, c* = 5.5, n* = 102: 10/102 ± 1.96 · sqrt(21 - 100/102) / 102
    half = 1.959964 * math.sqrt(21 - 100 / 102) / 102
    assert paired_interval(70, 15, 5, 10) == pytest.approx((10 / 102 - half, 10 / 102 + half))


@given(counts, counts, counts, counts)
def test_a_paired_interval_changes_sign_with_the_order_and_never_leaves_its_range(a, b, c, d):
    low, high = paired_interval(a, b, c, d)
    assert -1 <= low < high <= 1
    assert paired_interval(a, c, b, d) == pytest.approx((-high, -low))


def test_equal_answers_still_leave_an_interval_around_zero():
    low, high = paired_interval(100, 0, 0, 0)
    assert low < 0 < high
    assert low == -high


def test_pearson_is_the_linear_correlation():
    # x - mean: -1.5 -0.5 0.5 1.5; y - mean: -1 1 -1 1 → 2 / sqrt(5 · 4)
    assert pearson([1, 2, 3, 4], [1, 3, 1, 3]) == pytest.approx(2 / math.sqrt(20))


def test_spearman_gives_ties_their_mean_rank():
    # ranks 1 2.5 2.5 4 and 1 2 3 4: 4.5 / sqrt(4.5 · 5)
    assert spearman([10, 20, 20, 1000], [1, 2, 3, 4]) == pytest.approx(4.5 / math.sqrt(22.5))


@pytest.mark.parametrize("measure", [pearson, spearman])
def test_a_correlation_with_a_constant_is_undefined(measure):
    assert math.isnan(measure([1, 1, 1], [1, 2, 3]))
    assert math.isnan(measure([1], [1]))


@given(st.lists(st.tuples(values, values), min_size=2))
def test_correlations_are_symmetric_and_within_one(pairs):
    x, y = np.array(pairs).T
    for measure in (pearson, spearman):
        value = measure(x, y)
        assert math.isnan(value) or -1 <= value <= 1
        assert measure(y, x) == pytest.approx(value, nan_ok=True)


@given(st.lists(st.integers(-1000, 1000), min_size=2, unique=True))
def test_spearman_sees_only_the_order(numbers):
    x = np.array(numbers, np.float64)
    assert spearman(x, x**3) == pytest.approx(1)
    assert spearman(x, -(x**3)) == pytest.approx(-1)


def test_a_bootstrap_interval_is_the_statistics_spread_and_the_same_every_time():
    sample = np.random.default_rng(1).normal(size=400)
    low, high = bootstrap_interval(lambda rows: float(sample[rows].mean()), 400)
    half = 1.96 * sample.std() / 20
    assert (low, high) == pytest.approx((sample.mean() - half, sample.mean() + half), abs=0.02)
    assert (low, high) == bootstrap_interval(lambda rows: float(sample[rows].mean()), 400)


def test_a_bootstrap_leaves_out_what_is_undefined():
    assert bootstrap_interval(lambda rows: 1.0 if rows[0] else math.nan, 5) == (1, 1)
    assert all(map(math.isnan, bootstrap_interval(lambda _: math.nan, 5)))
