"""The gate of every kind of answer: what a change costs, and what it does not."""

from types import SimpleNamespace

import numpy as np
import pytest

from lmonnx.bundle.manifest import Activation, Head, Task
from lmonnx.compiler.quantize.gate import FLIP_COST, PlainGate, open_gate
from lmonnx.errors import InputError
from lmonnx.measure.entities import Tagged
from lmonnx.progress import silent

pytestmark = pytest.mark.compiler
RNG = np.random.default_rng(0)


class Stub:
    """A model of fixed raw outputs."""

    def __init__(self, task, answers, head=None):
        self.answers = [np.asarray(raw, np.float32) for raw in answers]
        manifest = SimpleNamespace(task=task, head=head)
        self.bundle = SimpleNamespace(manifest=manifest, path="stub")

    def raw(self, texts, *, long=None):
        yield from self.answers[: len(texts)]


def drop(task, before, after, head=None):
    first, second = Stub(task, before, head), Stub(task, after, head)
    texts = ("text",) * len(before)
    gate = PlainGate(texts, first.bundle.manifest, first.answers)
    return gate.measure(second, silent)


TAGS = Head(("O", "B-PER"), Activation.SOFTMAX)
OUTSIDE, INSIDE, UNSURE = [9.0, 0.0], [0.0, 9.0], [0.0, 0.1]


def test_of_tokens_only_those_in_entities_count():
    before = [[OUTSIDE] * 98 + [INSIDE, UNSURE]]
    after = [[OUTSIDE] * 98 + [INSIDE, OUTSIDE]]
    lost = drop(Task.TOKEN_CLASSIFICATION, before, after, TAGS)
    assert lost.value == pytest.approx(FLIP_COST / 2)
    assert (lost.agreement, lost.texts, lost.measured) == (0.99, 1, "expected accuracy")
    found = drop(Task.TOKEN_CLASSIFICATION, [[OUTSIDE] * 4], [[OUTSIDE] * 3 + [INSIDE]], TAGS)
    assert found.value == pytest.approx(1, abs=1e-3)  # the one token that is found in one


def test_where_no_token_is_in_an_entity_all_count():
    assert drop(Task.TOKEN_CLASSIFICATION, [[OUTSIDE]], [[OUTSIDE]], TAGS).value == 0


def test_starts_and_ends_count_alike_and_positions_differ_from_text_to_text():
    before = [[[0, 9, 0], [0, 0, 9]], [[9, 0], [0, 9]]]
    after = [[[0, 9, 0], [0, 9, 0]], [[9, 0], [0, 9]]]
    lost = drop(Task.QUESTION_ANSWERING, before, after)
    assert lost.value == pytest.approx(1 / 4, abs=1e-3) and lost.agreement == 0.75


def test_what_was_unlikely_among_many_costs_no_more_than_its_own_score():
    before, after = np.zeros((1, 1000)), np.zeros((1, 1000))
    before[0, 3] = after[0, 4] = 1e-3
    assert drop(Task.FILL_MASK, [before], [after]).value == pytest.approx(1e-3, rel=0.01)


def test_an_embedder_may_turn_and_stretch_its_vectors_but_not_shuffle_them():
    vectors = RNG.normal(size=(200, 1, 8)).astype(np.float32)
    turn = np.linalg.qr(RNG.normal(size=(8, 8)))[0]
    kept = drop(Task.FEATURE_EXTRACTION, vectors, 3 * vectors @ turn)
    assert kept.value == pytest.approx(0, abs=1e-5)
    noisy = drop(Task.FEATURE_EXTRACTION, vectors, vectors + RNG.normal(size=(200, 1, 8)) * 0.1)
    assert 0 < noisy.interval[0] <= noisy.value <= noisy.interval[1] < 0.1
    assert drop(Task.FEATURE_EXTRACTION, vectors, vectors[::-1]).value > 0.8
    assert drop(Task.FEATURE_EXTRACTION, vectors, np.ones_like(vectors)).value == 1


def test_a_ranking_is_held_to_its_order_and_not_to_the_side_of_0():
    scores = RNG.normal(size=(200, 1, 1)).astype(np.float32)
    head = Head(("score",), Activation.SIGMOID)
    shifted = drop(Task.TEXT_RANKING, scores, scores - 5, head)
    assert shifted.value == pytest.approx(0, abs=1e-5)
    assert shifted.measured == "correlation with the input bundle"


@pytest.mark.parametrize("task", [Task.QUESTION_ANSWERING, Task.FEATURE_EXTRACTION])
def test_a_nan_loses_everything(task):
    good = RNG.normal(size=(5, 2, 4))
    bad = good.copy()
    bad[3, 0, 0] = np.nan
    assert drop(task, good, bad).value == 1


def test_a_bundle_that_gives_one_value_to_all_needs_data():
    flat = Stub(Task.TEXT_RANKING, np.zeros((500, 1, 1)), Head(("s",), Activation.NONE))
    with pytest.raises(InputError, match="one value; give --data"):
        open_gate(flat, None, silent)


class Tagger(Stub):
    def __call__(self, texts, *, ignore_labels):
        labels = self.bundle.manifest.head.labels
        for text, raw in zip(texts, self.answers, strict=True):
            words, at = [], 0
            for word, row in zip(text.split(), raw, strict=True):
                label = labels[int(row.argmax())]
                words.append(SimpleNamespace(entity=label, score=1.0, start=at, end=at + len(word)))
                at += len(word) + 1
            yield words


def test_with_tagged_words_the_drop_is_of_entity_f1():
    examples = [Tagged(("a", "b"), ("B-PER", "O")), Tagged(("c",), ("B-PER",))]
    task = Task.TOKEN_CLASSIFICATION
    right, half = [[INSIDE, OUTSIDE], [INSIDE]], [[INSIDE, OUTSIDE], [OUTSIDE]]
    gate = open_gate(Tagger(task, right, TAGS), examples, silent)
    lost = gate.measure(Tagger(task, half, TAGS), silent)
    assert lost.value == pytest.approx(1 - 2 / 3) and lost.measured == "entity F1"
    assert lost.agreement == pytest.approx(2 / 3) and lost.interval == (0, 1)
