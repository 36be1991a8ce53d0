"""Documents in the order of their scores, against frozen ones, and the laws of the order."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import lmonnx
from lmonnx.bundle.bundle import Bundle
from lmonnx.bundle.manifest import Activation
from lmonnx.errors import BundleError, InputError
from lmonnx.runtime.pipelines.text_ranking import Ranked, Reranker
from lmonnx.runtime.tokenizer import Cut
from tests.conftest import GOLDEN

CASES = json.loads((GOLDEN / "tiny-ranker.json").read_text(encoding="utf-8"))["cases"]
DOCUMENTS = ["the film is good", "bad", "", "\u4e2d\u6587", "good " * 60, "bad"]
LONG = "the film is not good " * 30


@pytest.fixture(scope="module")
def rank():
    return lmonnx.load(GOLDEN / "tiny-ranker", threads=1)


def scores_of(ranked, count):
    found = {answer.index: answer.score for answer in ranked}
    return [found[index] for index in range(count)]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['query']:.20}")
def test_scores_are_those_that_transformers_gave(rank, case):
    ranked = rank(case["query"], case["documents"])
    found = scores_of(ranked, len(case["documents"]))
    np.testing.assert_allclose(found, case["scores"], atol=2e-6)
    order = [answer.index for answer in ranked]
    np.testing.assert_allclose(
        [case["scores"][i] for i in order], sorted(case["scores"], reverse=True), atol=2e-6
    )


def test_the_best_come_first_and_equal_documents_keep_their_order(rank):
    ranked = rank("film", ["bad", "good", "bad", "good"])
    assert [answer.score for answer in ranked] == sorted((a.score for a in ranked), reverse=True)
    order = [answer.index for answer in ranked]
    assert order.index(0) < order.index(2) and order.index(1) < order.index(3)
    assert rank("film", ["bad", "good"], top_k=1) == rank("film", ["bad", "good"])[:1]
    assert len(rank("film", ["bad", "good"], top_k=9)) == 2


def test_no_documents_are_no_answers_and_a_generator_is_read(rank):
    assert rank("film", []) == rank("film", iter(())) == []
    assert rank("film", (d for d in DOCUMENTS)) == rank("film", DOCUMENTS)


def test_a_score_is_the_heads_activation_of_the_logit():
    bundle = Bundle.open(GOLDEN / "tiny-ranker")
    for activation, apply in (
        (Activation.NONE, lambda x: x),
        (Activation.SIGMOID, lambda x: 1 / (1 + np.exp(-x))),
    ):
        head = replace(bundle.manifest.head, activation=activation)
        model = Reranker(replace(bundle, manifest=replace(bundle.manifest, head=head)))
        logits = model.logits([("film", document) for document in DOCUMENTS])[:, 0]
        found = scores_of(model("film", DOCUMENTS), len(DOCUMENTS))
        np.testing.assert_allclose(found, apply(logits), atol=1e-6)


def test_scores_of_pairs_are_inherited(rank):
    ((score, windows),) = rank.scores([("film", "good")])
    assert rank("film", ["good"]) == [Ranked(0, float(score[0]))]
    assert windows == 1


def test_long_documents_are_cut_by_default_and_max_takes_the_best_window(rank):
    (cut,) = rank("film", [LONG])
    (best,) = rank("film", [LONG], long="max")
    (mean,) = rank("film", [LONG], long="window")
    (found,) = rank.windows([("film", LONG)], long="max", cut=Cut(part=1))
    each = 1 / (1 + np.exp(-np.array([window.row[0] for window in found], np.float64)))
    assert len(each) > 2
    assert best.score == pytest.approx(each.max(), abs=1e-6)
    assert mean.score == pytest.approx(each.mean(), abs=1e-6)
    assert cut == rank("film", [LONG], long="truncate")[0]
    assert cut.score == pytest.approx(each[0], abs=1e-6)  # the first window is the beginning
    with pytest.raises(InputError, match=r"text 1 has \d+ tokens, the model takes 40"):
        rank("film", ["a", LONG], long="error")


def test_a_query_that_leaves_no_room_for_a_document_is_refused(rank):
    with pytest.raises(InputError, match="shorten the other text"):
        rank("film " * 60, ["good " * 20], long="max")
    assert rank("film " * 60, ["good"])


def test_a_model_of_several_labels_is_refused(tiny_bundle):
    with pytest.raises(BundleError, match="has 2 labels, ranking needs a model of one"):
        lmonnx.load(tiny_bundle, task="text-ranking")


def test_a_rankers_bundle_is_loaded_for_another_task_of_its_graph(rank):
    classify = lmonnx.load(GOLDEN / "tiny-ranker", task="text-classification")
    assert classify(("film", "good")).score == pytest.approx(rank("film", ["good"])[0].score)


@pytest.mark.parametrize(
    ("query", "documents", "said"),
    [
        ("", ["a"], "query must be a str that is not empty"),
        (" \n", ["a"], "query must be a str that is not empty"),
        (None, ["a"], "query must be a str that is not empty"),
        (["film"], ["a"], "query must be a str that is not empty"),
        ("film", "a", "documents is str, must be a list"),
        ("film", None, "documents is NoneType, must be a list"),
        ("film", 5, "documents is int, must be a list"),
        ("film", [None], "NoneType is no text"),
        ("film", [("a", "b")], "tuple is no text"),
        ("film", ["a", "\ud800"], "text 1 is not valid Unicode"),
        ("\ud800", ["a"], "text 0 is not valid Unicode"),
    ],
)
def test_what_is_no_text_is_an_input_error(rank, query, documents, said):
    with pytest.raises(InputError, match=said):
        rank(query, documents)


@pytest.mark.parametrize("top_k", [0, -1, 1.0, "1", True])
@pytest.mark.parametrize("documents", [["a"], []])
def test_another_top_k_is_refused(rank, top_k, documents):
    with pytest.raises(InputError, match="top_k is"):
        rank("film", documents, top_k=top_k)


words = st.lists(st.sampled_from(["film", "good", "\u4e2d", "don't", "[SEP]", ""]), max_size=45)
lists = st.lists(words.map(" ".join), min_size=1, max_size=8)


@given(lists, st.randoms(use_true_random=False), st.sampled_from(["truncate", "max", "window"]))
def test_neighbours_and_order_never_change_a_score(rank, documents, random, long):
    order = list(range(len(documents)))
    random.shuffle(order)
    ranked = rank("the film", [documents[i] for i in order], long=long)
    found = scores_of(ranked, len(documents))
    for place, index in enumerate(order):
        (alone,) = rank("the film", [documents[index]], long=long)
        assert found[place] == pytest.approx(alone.score, abs=1e-5)
