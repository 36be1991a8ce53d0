"""Perplexity: windows of a text, and figures against the formulas."""

import numpy as np
import pytest

from lmonnx import Bundle, InputError
from lmonnx.errors import BundleError
from lmonnx.measure.perplexity import Predictor, compare, perplexity, read_windows, surprise

RNG = np.random.default_rng(0)


class Fixed:
    """A predictor of drawn logits, the same for the same ids."""

    def __init__(self, seed, shift=0.0, vocabulary=50):
        self.seed, self.shift, self.vocabulary = seed, shift, vocabulary

    def logits(self, ids):
        random = np.random.default_rng([self.seed, *ids])
        return (random.normal(size=(len(ids), self.vocabulary)) * 3 + self.shift).astype(np.float32)


def windows(count=3, length=130):
    return [RNG.integers(50, size=length) for _ in range(count)]


def test_surprise_is_minus_the_log_of_the_softmax():
    ids = windows(1)[0]
    logits = Fixed(0).logits(ids)
    p = np.exp(np.float64(logits)) / np.exp(np.float64(logits)).sum(axis=1, keepdims=True)
    wanted = [-np.log(p[i, ids[i + 1]]) for i in range(len(ids) - 1)]
    np.testing.assert_allclose(surprise(logits, ids), wanted, rtol=1e-6)


def test_a_uniform_model_has_the_perplexity_of_its_vocabulary():
    class Uniform(Fixed):
        def logits(self, ids):
            return np.full((len(ids), 50), 7, np.float32)

    assert perplexity(Uniform(0), windows()) == pytest.approx(50)


def test_a_constant_added_to_all_logits_changes_nothing():
    texts = windows()
    found = compare(Fixed(0), Fixed(0, shift=40), texts)
    assert found.ratio == pytest.approx(1, abs=1e-4) and found.kl == pytest.approx(0, abs=1e-6)
    assert found.agreement == 1 and found.predictions == 3 * 129


def test_another_model_is_off_and_the_interval_holds_the_ratio():
    texts = windows()
    found = compare(Fixed(0), Fixed(1), texts)
    assert found.kl > 1 and found.agreement < 0.2
    assert found.interval[0] <= found.ratio <= found.interval[1]
    assert found.perplexity == pytest.approx(perplexity(Fixed(1), texts))


def test_a_nan_is_an_infinite_loss():
    class Broken(Fixed):
        def logits(self, ids):
            logits = super().logits(ids)
            logits[5, 3] = np.nan
            return logits

    found = compare(Fixed(0), Broken(0), windows())
    assert found.perplexity == np.inf and found.ratio == np.inf and found.kl == np.inf


def test_an_encoder_has_no_perplexity(tiny_bundle):
    with pytest.raises(BundleError, match="is no decoder"):
        Predictor(Bundle.open(tiny_bundle))


def test_windows_are_disjoint_and_a_short_text_is_one(tiny_bundle):
    bundle = Bundle.open(tiny_bundle)
    front = read_windows(bundle, "good film")[0]
    long = read_windows(bundle, "good film " * 40, length=16)
    assert all(len(window) == 16 for window in long)
    assert len(front) < 16
    with pytest.raises(InputError, match="too short"):
        read_windows(bundle, "")
