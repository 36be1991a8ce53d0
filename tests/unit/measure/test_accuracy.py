"""A model's answers against labels: one label, several, numbers."""

from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest

from lmonnx.bundle.manifest import Activation, Head, Similarity, Task
from lmonnx.errors import BundleError, InputError
from lmonnx.measure.accuracy import Columns, evaluate, read_data
from lmonnx.measure.datasets import Example
from lmonnx.measure.decisions import answer_all
from lmonnx.measure.metrics import wilson_interval
from lmonnx.runtime.numerics import ACTIVATIONS


@dataclass
class Stub:
    """A model whose logits are the numbers in the text."""

    head: Head
    task: Task = Task.TEXT_CLASSIFICATION

    @property
    def bundle(self):
        return SimpleNamespace(manifest=SimpleNamespace(task=self.task, head=self.head))

    def raw(self, texts, *, long=None):
        for text in texts:
            yield np.array([[float(word) for word in text.split()]], np.float32)

    def scores(self, texts, *, long=None):
        for rows in self.raw(texts):
            yield ACTIVATIONS[self.head.activation](rows.astype(np.float64)).mean(axis=0), len(rows)


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
        def raw(self, texts, *, long=None):
            raise AssertionError("ran")

    with pytest.raises(InputError, match="row 1"):
        evaluate(Silent(SENTIMENT.head), [Example("1 2", "neutral")])


def test_no_examples_are_refused():
    with pytest.raises(InputError, match="at least one"):
        evaluate(SENTIMENT, [])


def test_progress_ends_at_all_and_the_order_stays():
    told = []
    texts = [f"{i} 0" for i in range(1100)]
    answers = answer_all(SENTIMENT, texts, progress=lambda *args: told.append(args))
    assert [raw[0, 0] for raw in answers] == list(range(1100))
    assert told == [("evaluate", done, 1100) for done in (0, 512, 1024, 1100)]


class Embedder(Stub):
    """A model whose vectors are the numbers in the text."""

    @property
    def bundle(self):
        spec = SimpleNamespace(similarity=Similarity.COSINE)
        return SimpleNamespace(manifest=SimpleNamespace(task=self.task, embedding=spec))

    def __call__(self, texts):
        return np.concatenate(list(self.raw(texts)))


EMBEDDER = Embedder(Head((), Activation.NONE), Task.FEATURE_EXTRACTION)


def test_similarities_are_judged_by_their_ranks():
    pairs = {("1 0", "1 0"): "5", ("1 0", "1 1"): "4.5", ("1 0", "-2 0"): "0"}
    result = evaluate(EMBEDDER, [Example(*pair) for pair in pairs.items()])
    # cosines 1, 0.7071, -1
    assert result.n == 3 and result.spearman == pytest.approx(1)
    assert result.pearson == pytest.approx(np.corrcoef([1, 0.5**0.5, -1], [5, 4.5, 0])[0, 1])


def test_similarities_need_two_texts_and_a_number():
    with pytest.raises(InputError, match="--text-pair"):
        evaluate(EMBEDDER, [Example("1 0", "1")])
    with pytest.raises(
        InputError, match=r"row 1 has the label 'score', which is no number; .*head"
    ):
        evaluate(EMBEDDER, [Example(("1 0", "1 0"), "score")])


def test_a_ranking_is_judged_by_correlation_or_by_yes_and_no():
    ranker = Stub(Head(("score",), Activation.SIGMOID), Task.TEXT_RANKING)
    yes_and_no = [Example(("-1", ""), "0"), Example(("1", ""), "1"), Example(("-2", ""), "1")]
    values = [Example(("-1", ""), "0.1"), Example(("1", ""), "3"), Example(("0", ""), "1")]
    ranker.raw = lambda texts, **_: (np.array([[float(q)]], np.float32) for q, _ in texts)
    assert evaluate(ranker, yes_and_no).accuracy == pytest.approx(2 / 3)
    assert evaluate(ranker, values).spearman == pytest.approx(1)


@pytest.mark.parametrize("task", [Task.TEXT_RANKING, Task.FEATURE_EXTRACTION])
def test_tasks_of_pairs_ask_for_the_second_column(tmp_path, task):
    with pytest.raises(InputError, match="--text-pair and --label"):
        read_data(tmp_path / "a.tsv", task, Columns())


def test_long_text_has_the_label_of_its_windows_mean_score_as_in_a_call():
    class Windowed(Stub):
        def raw(self, texts, *, long=None):
            for text in texts:
                yield np.concatenate([*Stub.raw(self, text.split("/"))])

    one_is_sure = "20 0/0 2/0 2"  # the mean of the logits says NEG, that of the scores POS
    result = evaluate(Windowed(SENTIMENT.head), [Example(one_is_sure, "POS")])
    assert result.accuracy == 1


def test_similarities_are_of_the_vectors_that_a_call_gives():
    class Prompted(Embedder):
        def __call__(self, texts):
            return Embedder.__call__(self, texts)[:, :1]  # its default dimensions

    model = Prompted(EMBEDDER.head, EMBEDDER.task)
    pairs = {("1 9", "1 0"): "1", ("1 0", "2 9"): "1", ("1 0", "-1 9"): "0"}
    assert evaluate(model, [Example(*pair) for pair in pairs.items()]).pearson == pytest.approx(1)


@pytest.mark.parametrize(
    ("model", "text"),
    [(SENTIMENT, "nan nan"), (TOPICS, "0 inf nan"), (EMBEDDER, ("nan 1", "1 1"))],
    ids=["one label", "several", "vectors"],
)
def test_a_model_that_gives_nan_has_no_figure(model, text):
    label = "1" if model is EMBEDDER else model.head.labels[0]
    with pytest.raises(BundleError, match="NaN or infinite"):
        evaluate(model, [Example(text, label), Example(text, label)])
