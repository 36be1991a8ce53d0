"""A model's answers against labels: one label, several, numbers."""

from dataclasses import dataclass

import numpy as np
import pytest

from lmonnx.bundle.manifest import Activation, Head
from lmonnx.errors import InputError
from lmonnx.measure.accuracy import answer_all, evaluate
from lmonnx.measure.datasets import Example
from lmonnx.measure.metrics import wilson_interval


@dataclass
class Stub:
    """A model whose logits are the numbers in the text."""

    head: Head

    def logits(self, texts):
        rows = [[float(word) for word in text.split()] for text in texts]
        return np.array(rows, np.float32).reshape(len(texts), len(self.head.labels))


SENTIMENT = Stub(Head(("NEG", "POS"), Activation.SOFTMAX))
TOPICS = Stub(Head(("a", "b"), Activation.SIGMOID))


def test_the_best_logit_is_the_answer():
    texts = {"2 1": "NEG", "1 2": "POS", "3 4": "NEG", "-1 0": "1"}
    result = evaluate(SENTIMENT, [Example(*pair) for pair in texts.items()])
    assert (result.n, result.labels, result.accuracy) == (4, ("NEG", "POS"), 0.75)
    assert result.confusion_matrix == ((1, 1), (0, 2))
    assert result.macro_f1 == pytest.approx((2 / 3 + 4 / 5) / 2)
    assert result.confidence_interval == wilson_interval(3, 4)


def test_several_labels_are_decided_each_for_itself_and_the_interval_counts_texts():
    result = evaluate(TOPICS, [Example("1 -1", "a"), Example("1 1", ""), Example("-1 -1", "a|b")])
    assert result.accuracy == pytest.approx(2 / 6)
    assert result.macro_f1 == pytest.approx((2 * 1 / 4 + 0) / 2)
    assert result.confidence_interval == pytest.approx(wilson_interval(1, 3))
    assert result.confusion_matrix is None


@pytest.mark.parametrize("activation", [Activation.NONE, Activation.SIGMOID])
def test_numbers_are_judged_by_correlation(activation):
    model = Stub(Head(("score",), activation))
    result = evaluate(model, [Example("-1", "0"), Example("0", "2.5"), Example("1", "5")])
    assert (result.pearson, result.spearman) == pytest.approx((1, 1))
    assert result.accuracy is None
    flat = evaluate(model, [Example("0", "0"), Example("0", "2")])
    assert flat.pearson is None


def test_a_wrong_label_costs_no_run():
    class Silent(Stub):
        def logits(self, texts):
            raise AssertionError("ran")

    with pytest.raises(InputError, match="row 1"):
        evaluate(Silent(SENTIMENT.head), [Example("1 2", "neutral")])


def test_no_examples_are_refused():
    with pytest.raises(InputError, match="at least one"):
        evaluate(SENTIMENT, [])


def test_progress_ends_at_all_and_the_order_stays():
    told = []
    texts = [f"{i} 0" for i in range(1100)]
    logits = answer_all(SENTIMENT, texts, progress=lambda *args: told.append(args))
    assert logits[:, 0].tolist() == list(range(1100))
    assert told == [("evaluate", done, 1100) for done in (0, 512, 1024, 1100)]
