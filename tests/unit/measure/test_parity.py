"""Parity: near-ties may fall the other way in int8, clear decisions may not."""

import numpy as np
import pytest

from lmonnx import ParityError
from lmonnx.bundle.manifest import Activation, Head, Precision
from lmonnx.measure.parity import compare, require_parity

HEAD = Head(("no", "yes"), Activation.SOFTMAX)
CLEAR, TIE = [[-2.0, 2.0]] * 90, [[0.0, 0.1]] * 10


def flipped(logits, rows):
    changed = np.array(logits, np.float32)
    changed[rows] = changed[rows][:, ::-1]
    return changed


def test_near_ties_that_fall_the_other_way_are_no_miss():
    reference = np.array(CLEAR + TIE, np.float32)
    parity = compare(reference, flipped(reference, slice(90, 100)), HEAD, "reference")
    assert (parity.agreement, parity.clear_agreement) == (0.9, 1.0)
    require_parity(parity, Precision.INT8)


def test_clear_decisions_that_change_are_a_miss():
    reference = np.array(CLEAR + TIE, np.float32)
    parity = compare(reference, flipped(reference, slice(0, 3)), HEAD, "reference")
    with pytest.raises(ParityError, match=r"96.67% get the label"):
        require_parity(parity, Precision.INT8)


@pytest.mark.parametrize("activation", Activation)
def test_equal_logits_are_at_parity_under_every_head(activation):
    logits = np.random.default_rng(0).normal(size=(20, 2)).astype(np.float32)
    parity = compare(logits, logits, Head(("a", "b"), activation), "reference")
    require_parity(parity, Precision.FLOAT32)
    assert parity.agreement == parity.clear_agreement == 1


def test_float32_is_held_to_the_range():
    logits = np.array([[0.0, 10.0]], np.float32)
    parity = compare(logits, logits + np.float32(0.01), HEAD, "reference")
    with pytest.raises(ParityError, match="of the range"):
        require_parity(parity, Precision.FLOAT32)


@pytest.mark.parametrize("precision", Precision)
def test_nan_is_never_at_parity(precision):
    logits = np.array([[0.0, 2.0]], np.float32)
    parity = compare(np.array([[np.nan, 2.0]], np.float32), logits, HEAD, "reference")
    with pytest.raises(ParityError, match="NaN"):
        require_parity(parity, precision)
