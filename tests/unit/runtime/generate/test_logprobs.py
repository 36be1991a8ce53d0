"""Log-probabilities are those of the softmax, ranks count from 1, ties go by id."""

import numpy as np

from lmonnx.runtime.generate.logprobs import likeliest, log_softmax, token_logprob
from lmonnx.runtime.numerics import softmax

ROW = (np.random.default_rng(0).standard_normal(500) * 4).astype(np.float32)


def test_log_softmax_is_the_logarithm_of_softmax():
    rows = np.stack([ROW, ROW * 10, ROW - 1e4])
    expected = np.log(softmax(rows.astype(np.float64)))
    np.testing.assert_allclose(log_softmax(rows), expected, rtol=1e-4, atol=1e-3)
    assert log_softmax(ROW).dtype == np.float32


def test_excluded_tokens_have_no_probability():
    row = np.array([1, -np.inf, 2], np.float32)
    assert log_softmax(row)[1] == -np.inf
    found = token_logprob(row, 1, 3)
    assert found.logprob == -np.inf and found.rank == 3


def test_a_token_is_ranked_among_all():
    order = np.argsort(-ROW).tolist()
    for rank, token in ((1, order[0]), (2, order[1]), (500, order[-1])):
        assert token_logprob(ROW, token, 0).rank == rank
    assert token_logprob(ROW, 3, 0).top == ()


def test_the_likeliest_come_first_with_their_log_probabilities():
    found = token_logprob(ROW, 7, 5)
    exact = np.log(softmax(ROW.astype(np.float64)))
    assert [token for token, _ in found.top] == np.argsort(-ROW)[:5].tolist()
    np.testing.assert_allclose(
        [value for _, value in found.top], np.sort(exact)[::-1][:5], rtol=1e-5
    )
    np.testing.assert_allclose(found.logprob, exact[7], rtol=1e-5)


def test_of_a_tie_the_lower_id_comes_first():
    assert likeliest(np.array([0, 2, 1, 2, 2, 1], np.float32), 4) == [1, 3, 4, 2]
    assert likeliest(np.zeros(9, np.float32), 3) == [0, 1, 2]


def test_no_more_than_the_vocabulary_can_be_asked_for():
    assert sorted(likeliest(ROW, 1000)) == list(range(500)) and likeliest(ROW, 0) == []
