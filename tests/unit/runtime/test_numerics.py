"""Logits → scores, for every number a graph may give."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from lmonnx.runtime.numerics import identity, sigmoid, softmax

logits = arrays(
    np.float64, array_shapes(min_dims=1, max_dims=3), elements=st.floats(-1e300, 1e300, width=64)
)


@given(logits)
def test_softmax_gives_probabilities_and_keeps_the_order(x):
    p = softmax(x)
    np.testing.assert_allclose(p.sum(axis=-1), 1, rtol=1e-12)
    assert ((p >= 0) & (p <= 1)).all()
    best = np.take_along_axis(p, x.argmax(axis=-1)[..., None], -1)[..., 0]
    assert (best == p.max(axis=-1)).all()


@given(arrays(np.float64, 5, elements=st.floats(-50, 50)), st.floats(-500, 500))
def test_softmax_is_the_same_when_all_logits_move_together(x, shift):
    np.testing.assert_allclose(softmax(x + shift), softmax(x), atol=1e-12)


@given(logits)
def test_sigmoid_is_between_0_and_1_and_symmetric(x):
    p = sigmoid(x)
    assert ((p >= 0) & (p <= 1)).all()
    np.testing.assert_allclose(p + sigmoid(-x), 1, rtol=1e-12)


@given(st.floats(-30, 30))
def test_sigmoid_is_the_softmax_of_a_logit_against_zero(x):
    np.testing.assert_allclose(sigmoid(np.array([x])), softmax(np.array([x, 0.0]))[:1], rtol=1e-9)


def test_extremes_give_the_limits_and_no_warning():
    assert sigmoid(np.array([-1e308, 0.0, 1e308])).tolist() == [0, 0.5, 1]
    assert softmax(np.array([-1e38, 1e38], np.float32)).tolist() == [0, 1]
    assert softmax(np.array([[7.0]])).tolist() == [[1]]


@given(logits)
def test_identity_changes_nothing(x):
    assert identity(x) is x
