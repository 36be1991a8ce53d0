"""One text or many, pairs and mappings, long and empty ones: the form of every answer."""

from dataclasses import replace
from itertools import count, islice

import numpy as np
import pytest

import lmonnx
from lmonnx.bundle.bundle import Bundle
from lmonnx.bundle.manifest import Activation, Head
from lmonnx.errors import InputError
from lmonnx.runtime.pipelines import base
from lmonnx.runtime.pipelines.text_classification import TextClassifier

LONG = "the film not good " * 40  # every word is one token
TEXTS = ["good", "the film is bad", "", "not " * 30, "x"]


def with_head(bundle: Bundle, activation: Activation) -> TextClassifier:
    head = Head(("no", "yes"), activation)
    return TextClassifier(replace(bundle, manifest=replace(bundle.manifest, head=head)))


def test_one_text_is_one_answer_and_a_list_is_a_list(tiny_model):
    answer = tiny_model("good")
    assert answer.label in {"LABEL_0", "LABEL_1"}
    assert 0.5 <= answer.score <= 1
    assert tiny_model(["good"]) == [answer]
    assert answer.windows == 1


def test_answers_come_in_the_order_of_the_texts(tiny_model):
    alone = [tiny_model(text) for text in TEXTS]
    together = tiny_model(TEXTS)
    assert [a.label for a in together] == [a.label for a in alone]
    np.testing.assert_allclose([a.score for a in together], [a.score for a in alone], atol=1e-6)


def test_a_pair_is_a_tuple_or_a_mapping(tiny_model):
    pair = tiny_model(("good", "bad"))
    assert pair == tiny_model({"text": "good", "text_pair": "bad"})
    assert pair != tiny_model("good")
    assert tiny_model({"text": "good"}) == tiny_model("good")


def test_texts_pairs_and_mappings_may_be_mixed(tiny_model):
    mixed = ["good", ("good", "bad"), {"text": "good", "text_pair": "bad"}, {"text": "good"}]
    first, pair, mapping, last = tiny_model(mixed)
    assert first.score == pytest.approx(last.score)
    assert pair.score == pytest.approx(mapping.score)


def test_a_list_of_two_is_two_texts_and_a_tuple_of_three_is_three(tiny_model):
    assert len(tiny_model(["good", "bad"])) == 2
    assert len(tiny_model(("good", "bad", "film"))) == 3


@pytest.mark.parametrize("texts", [[], (), iter(())])
def test_no_texts_are_no_answers(tiny_model, texts):
    assert tiny_model(texts) == []


def test_texts_may_come_from_a_generator(tiny_model):
    assert tiny_model(text for text in TEXTS) == tiny_model(TEXTS)


@pytest.mark.parametrize(
    "texts",
    [
        5, None, 1.5, b"bytes", [None], [b"a"], [["a", "b"]], [("a", "b", "c")], {"txt": "a"}, {},
        {"text": "a", "pair": "b"}, {"text": 5}, [("a", None)], "\ud800", ["a", "b\udfff"],
    ],
)  # fmt: skip
def test_what_is_no_text_is_an_input_error_of_one_line(tiny_model, texts):
    with pytest.raises(InputError) as caught:
        tiny_model(texts)
    assert str(caught.value).isprintable()


def test_the_place_of_a_wrong_text_counts_from_the_first_of_the_request(tiny_model, monkeypatch):
    monkeypatch.setattr(base, "LOOK_AHEAD", 4)
    with pytest.raises(InputError, match="text 9 is not valid Unicode"):
        tiny_model(["a"] * 9 + ["\ud800"])


def test_top_k_gives_the_best_labels_first_and_none_gives_all(tiny_model):
    (best,) = tiny_model("good").labels
    both = tiny_model("good", top_k=None).labels
    assert both[0] == best
    assert both[0].score >= both[1].score
    assert sum(label.score for label in both) == pytest.approx(1)
    assert tiny_model("good", top_k=2).labels == tiny_model("good", top_k=99).labels == both


@pytest.mark.parametrize("top_k", [0, -1, 1.0, "1", True])
@pytest.mark.parametrize("texts", ["good", []])
def test_another_top_k_is_refused(tiny_model, top_k, texts):
    with pytest.raises(InputError, match=r"top_k is .*, must be a whole number of at least 1"):
        tiny_model(texts, top_k=top_k)


def test_long_text_is_the_mean_over_its_windows(tiny_model):
    answer = tiny_model(LONG, top_k=None)
    windows = tiny_model.tokenizer.encode([LONG])
    assert answer.windows == len(windows) > 1
    assert tiny_model(["good", LONG, "bad"])[1].windows == answer.windows
    assert tiny_model(LONG, long="truncate").windows == 1


def test_a_windows_mean_is_of_scores(tiny_model):
    ((scores, windows),) = tiny_model.scores([LONG])
    (found,) = tiny_model.windows([LONG])
    rows = np.array([window.row for window in found])
    shares = np.exp(rows) / np.exp(rows).sum(axis=1, keepdims=True)
    assert windows == len(rows)
    np.testing.assert_allclose(scores, shares.mean(axis=0), atol=1e-6)


def test_truncated_text_is_answered_by_its_beginning(tiny_model):
    ids = tiny_model.tokenizer.encode([LONG], lmonnx.runtime.tokenizer.Long.TRUNCATE)[0].ids
    assert len(ids) == 64
    short = tiny_model(" ".join(LONG.split()[:62]))
    assert tiny_model(LONG, long="truncate").score == pytest.approx(short.score, abs=1e-6)


def test_long_text_may_be_an_error_by_default_or_by_call(tiny_bundle, tiny_model):
    with pytest.raises(InputError, match="tokens, the model takes 64"):
        tiny_model(LONG, long="error")
    strict = lmonnx.load(tiny_bundle, long="error")
    with pytest.raises(InputError, match="the model takes 64"):
        strict(LONG)
    assert strict(LONG, long="window").windows > 1


@pytest.mark.parametrize("texts", ["good", []])
def test_an_unknown_rule_for_long_text_is_refused(tiny_bundle, tiny_model, texts):
    with pytest.raises(
        InputError, match="long is 'cut', must be one of window, max, truncate, error"
    ):
        tiny_model(texts, long="cut")
    with pytest.raises(InputError, match="must be one of"):
        lmonnx.load(tiny_bundle, long="cut")


def test_a_stream_answers_an_endless_input_reading_a_bounded_part(tiny_model, monkeypatch):
    monkeypatch.setattr(base, "LOOK_AHEAD", 8)
    read = count()
    answers = tiny_model.stream(f"film {next(read)}" for _ in iter(int, 1))
    assert len(list(islice(answers, 20))) == 20
    assert next(read) == 32  # while some run the next are tokenized


def test_a_stream_keeps_order_and_takes_options(tiny_model):
    streamed = list(tiny_model.stream(iter(TEXTS), top_k=None))
    assert streamed == tiny_model(TEXTS, top_k=None)
    assert list(tiny_model.stream([])) == []


def test_each_activation_gives_its_own_scores(tiny_bundle):
    bundle = Bundle.open(tiny_bundle)
    logits = with_head(bundle, Activation.NONE).logits(["good"])[0]
    expected = {
        Activation.NONE: logits,
        Activation.SIGMOID: 1 / (1 + np.exp(-logits)),
        Activation.SOFTMAX: np.exp(logits) / np.exp(logits).sum(),
    }
    for activation, scores in expected.items():
        (found, _), *_ = with_head(bundle, activation).scores(["good"])
        np.testing.assert_allclose(found, scores, rtol=1e-6)


def test_logits_have_a_row_a_text_and_none_for_none(tiny_model):
    assert tiny_model.logits(TEXTS).shape == (5, 2)
    assert tiny_model.logits([]).shape == (0, 2)


def test_more_texts_than_are_read_ahead_are_all_answered(tiny_model, monkeypatch):
    texts = [f"film {number}" for number in range(50)]
    whole = tiny_model.logits(texts)
    monkeypatch.setattr(base, "LOOK_AHEAD", 7)
    np.testing.assert_allclose(tiny_model.logits(texts), whole, atol=1e-5)


def test_an_unverified_load_answers_the_same(tiny_bundle, tiny_model):
    assert lmonnx.load(tiny_bundle, verify=False, threads=1)("good") == tiny_model("good")
