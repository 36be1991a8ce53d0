"""A draw follows the probabilities, its seed, and nothing else."""

import numpy as np
import pytest

from lmonnx.errors import InputError
from lmonnx.runtime.generate.params import SamplingParams
from lmonnx.runtime.generate.sampling import sample, warp
from lmonnx.runtime.numerics import softmax

ROW = np.random.default_rng(0).standard_normal(3000).astype(np.float32)
HOT = SamplingParams(temperature=1.0)


def draws(row, params, count, seed=0):
    rng = np.random.default_rng(seed)
    return [sample(row, params, rng) for _ in range(count)]


def test_greedy_takes_the_first_of_the_likeliest_and_no_random_number():
    row = np.array([1, 3, 3, 0], np.float32)
    rng = np.random.default_rng(0)
    assert sample(row, SamplingParams(), rng) == 1
    assert rng.random() == np.random.default_rng(0).random()


def test_every_draw_takes_one_random_number():
    rng = np.random.default_rng(0)
    sample(ROW, SamplingParams(temperature=0.7, top_p=0.9), rng)
    other = np.random.default_rng(0)
    other.random()
    assert rng.random() == other.random()


def test_the_same_seed_gives_the_same_draws():
    assert draws(ROW, HOT, 50) == draws(ROW, HOT, 50) != draws(ROW, HOT, 50, seed=1)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_draws_follow_the_probabilities(temperature):
    row = np.array([2, 1, -np.inf, 0, 1], np.float32)
    found = draws(row, SamplingParams(temperature=temperature), 20_000)
    shares = np.bincount(found, minlength=5) / 20_000
    np.testing.assert_allclose(shares, softmax(row / temperature), atol=0.015)


def test_draws_from_a_wide_row_follow_the_probabilities():
    found = draws(ROW, HOT, 30_000)
    order = np.argsort(-ROW)
    shares = np.bincount(found, minlength=3000)[order].reshape(10, 300).sum(axis=1) / 30_000
    np.testing.assert_allclose(shares, softmax(ROW)[order].reshape(10, 300).sum(axis=1), atol=0.01)


@pytest.mark.parametrize("uniform", [0.0, np.nextafter(1, 0)])
def test_the_ends_of_the_unit_interval_give_the_first_and_the_last_token(uniform):
    class Fixed:
        def random(self):
            return uniform

    row = np.full(1000, -np.inf, np.float32)
    row[[10, 300, 990]] = 1, 2, 0
    assert sample(row, HOT, Fixed()) == (990 if uniform else 10)


def test_no_excluded_token_is_ever_drawn():
    rng = np.random.default_rng(0)
    for _ in range(15):
        row = rng.standard_normal(700).astype(np.float32)
        row[rng.random(700) < 0.98] = -np.inf
        row[rng.integers(700)] = 0
        ends = np.exp(row - row.max()).cumsum(dtype=np.float64)
        for share in [*rng.random(20), *(ends / ends[-1])[:-1]]:

            class Fixed:
                value = min(float(share), np.nextafter(1, 0))

                def random(self):
                    return self.value

            assert row[sample(row, HOT, Fixed())] > -np.inf


@pytest.mark.parametrize("value", [-np.inf, np.nan])
def test_a_row_without_a_token_is_an_input_error(value):
    for params in (SamplingParams(), HOT):
        with pytest.raises(InputError, match="no token can come next"):
            sample(np.full(9, value, np.float32), params, np.random.default_rng(0))


def test_one_nan_is_an_input_error():
    row = ROW.copy()
    row[77] = np.nan
    with pytest.raises(InputError, match="NaN"):
        sample(row, SamplingParams(), np.random.default_rng(0))


def test_a_neutral_warp_is_the_row_itself():
    assert warp(ROW, HOT) is ROW


def test_ties_at_the_border_of_top_p_keep_the_lower_ids():
    kept = np.isfinite(warp(np.zeros(10, np.float32), SamplingParams(top_p=0.35)))
    assert np.flatnonzero(kept).tolist() == [0, 1, 2, 3]
