"""Parity: near-ties may fall the other way in int8, clear decisions may not."""

import numpy as np
import pytest

from lmonnx import ParityError
from lmonnx.bundle.manifest import Precision
from lmonnx.measure.decisions import Decision
from lmonnx.measure.parity import compare, require_parity

BEST = Decision.BEST
CLEAR, TIE = [[-2.0, 2.0]] * 90, [[0.0, 0.1]] * 10


def texts(rows):
    """Return a row a text."""
    return [row[None] for row in rows]


def flipped(logits, rows):
    changed = np.array(logits, np.float32)
    changed[rows] = changed[rows][:, ::-1]
    return changed


def test_near_ties_that_fall_the_other_way_are_no_miss():
    reference = np.array(CLEAR + TIE, np.float32)
    parity = compare(texts(reference), texts(flipped(reference, slice(90, 100))), BEST, "reference")
    assert (parity.agreement, parity.clear_agreement) == (0.9, 1.0)
    require_parity(parity, Precision.INT8)


def test_clear_decisions_that_change_are_a_miss():
    reference = np.array(CLEAR + TIE, np.float32)
    parity = compare(texts(reference), texts(flipped(reference, slice(0, 3))), BEST, "reference")
    with pytest.raises(ParityError, match=r"96.67% is decided as by"):
        require_parity(parity, Precision.INT8)


@pytest.mark.parametrize("decision", Decision)
def test_equal_logits_are_at_parity_whatever_they_decide(decision):
    logits = np.random.default_rng(0).normal(size=(20, 2)).astype(np.float32)
    parity = compare(texts(logits), texts(logits), decision, "reference")
    require_parity(parity, Precision.FLOAT32)
    require_parity(parity, Precision.INT8, decision)
    assert parity.agreement == parity.clear_agreement == pytest.approx(1)


def test_four_bits_may_decide_a_tenth_otherwise():
    reference = np.array(CLEAR + TIE, np.float32)
    for rows, passes in ((9, True), (10, False)):
        parity = compare(texts(reference), texts(flipped(reference, slice(rows))), BEST, "x")
        if passes:
            require_parity(parity, Precision.INT4)
            continue
        with pytest.raises(ParityError, match=r"88.89% is decided as by x, less than 90%"):
            require_parity(parity, Precision.INT4)


def test_float32_is_held_to_the_range():
    logits = np.array([[0.0, 10.0]], np.float32)
    parity = compare(texts(logits), texts(logits + np.float32(0.01)), BEST, "reference")
    with pytest.raises(ParityError, match="of the range"):
        require_parity(parity, Precision.FLOAT32)


@pytest.mark.parametrize("precision", Precision)
def test_nan_is_never_at_parity(precision):
    logits = np.array([[0.0, 2.0]], np.float32)
    parity = compare([np.array([[np.nan, 2.0]], np.float32)], texts(logits), BEST, "reference")
    with pytest.raises(ParityError, match="NaN"):
        require_parity(parity, precision)


def test_rows_of_ragged_texts_count_alike_and_a_text_may_have_none():
    reference = [np.eye(3, 4, dtype=np.float32) * 9, np.zeros((0, 4), np.float32), np.eye(1, 7) * 9]
    given = [raw.astype(np.float32).copy() for raw in reference]
    given[0][0] = [0, 0, 0, 9]
    parity = compare(reference, given, BEST, "reference")
    assert (parity.texts, parity.agreement) == (3, 0.75)


def test_a_regression_in_int8_is_judged_by_correlation():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(50, 1)).astype(np.float32)
    near = values + rng.normal(size=(50, 1)).astype(np.float32) * np.float32(0.05)
    for given, passes in ((near, True), (-values, False), (np.zeros_like(values), False)):
        parity = compare(texts(values), texts(given), Decision.VALUE, "reference")
        if passes:
            require_parity(parity, Precision.INT8, Decision.VALUE)
            continue
        with pytest.raises(ParityError, match="on 50 texts the correlation with reference is"):
            require_parity(parity, Precision.INT8, Decision.VALUE)


def test_vectors_in_int8_are_judged_by_their_direction():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(50, 16)).astype(np.float32)
    longer, other = 2 * vectors, rng.normal(size=(50, 16)).astype(np.float32)
    parity = compare(texts(vectors), texts(longer), Decision.VECTOR, "reference")
    require_parity(parity, Precision.INT8, Decision.VECTOR)
    parity = compare(texts(vectors), texts(other), Decision.VECTOR, "reference")
    with pytest.raises(ParityError, match="mean cosine similarity to the vectors of reference"):
        require_parity(parity, Precision.INT8, Decision.VECTOR)
