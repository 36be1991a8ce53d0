"""Labels of one's own, against transformers' frozen answers, and the laws of the answer."""

import json
import tracemalloc
from dataclasses import replace
from itertools import count, islice

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import lmonnx
from lmonnx.bundle.bundle import Bundle
from lmonnx.bundle.manifest import Activation, Head, Side
from lmonnx.errors import BundleError, InputError
from lmonnx.runtime.pipelines import base
from lmonnx.runtime.pipelines.zero_shot import ZeroShotClassifier, fill_template, read_labels
from tests.conftest import GOLDEN

CASES = json.loads((GOLDEN / "tiny-nli.json").read_text(encoding="utf-8"))["cases"]
TEXTS = ["the film is good", "", "bad " * 100, "\u4e2d\u6587 don't", "film " * 30]
LABELS = ["good", "bad film", "not"]
LONG = "the film is not good " * 30


@pytest.fixture(scope="module")
def shoot():
    return lmonnx.load(GOLDEN / "tiny-nli", threads=1)


def with_labels(*labels, **source):
    bundle = Bundle.open(GOLDEN / "tiny-nli")
    text = bundle.manifest.text
    manifest = replace(
        bundle.manifest,
        head=Head(labels, Activation.SOFTMAX),
        text=replace(text, source=replace(text.source, **source)),
    )
    return ZeroShotClassifier(replace(bundle, manifest=manifest))


def by_label(answer):
    return dict(zip(answer.labels, answer.scores, strict=True))


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['text']:.10}{case['options']}")
def test_answers_are_those_that_transformers_gave(shoot, case):
    answer = shoot(case["text"], **case["options"], long="truncate")
    assert answer.sequence == case["text"]
    assert list(answer.labels) == case["labels"]
    np.testing.assert_allclose(answer.scores, case["scores"], atol=2e-6)


def test_one_text_is_one_answer_and_a_list_is_a_list(shoot):
    answer = shoot("good", LABELS)
    assert sorted(answer.labels) == sorted(LABELS)
    assert shoot(["good"], LABELS) == [answer]
    assert list(answer.scores) == sorted(answer.scores, reverse=True)
    assert sum(answer.scores) == pytest.approx(1)
    assert shoot([], LABELS) == []


def test_scores_are_the_softmax_of_the_entailment_logits(shoot):
    pairs = [("good", f"This example is {label}.") for label in LABELS]
    entailed = shoot.logits(pairs)[:, 2].astype(np.float64)
    expected = np.exp(entailed) / np.exp(entailed).sum()
    found = by_label(shoot("good", LABELS))
    np.testing.assert_allclose([found[label] for label in LABELS], expected, atol=1e-6)


def test_several_labels_may_hold_and_one_label_is_scored_by_itself(shoot):
    each = by_label(shoot("good", LABELS, multi_label=True))
    for label in LABELS:
        alone = shoot("good", [label])
        assert alone.scores[0] == pytest.approx(each[label], abs=1e-6)
        logits = shoot.logits([("good", f"This example is {label}.")])[0].astype(np.float64)
        expected = 1 / (1 + np.exp(logits[0] - logits[2]))
        assert each[label] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("labels", "entailment", "contradiction"),
    [
        (("ENTAILMENT", "neutral", "contradiction"), 0, 2),
        (("contradiction", "Entailed", "neutral"), 1, 0),
        (("neutral", "not_entailment", "entail"), 2, 0),
    ],
)
def test_the_label_that_starts_with_entail_counts(labels, entailment, contradiction):
    model = with_labels(*labels)
    logits = model.logits([("good", "This example is bad.")])[0].astype(np.float64)
    expected = 1 / (1 + np.exp(logits[contradiction] - logits[entailment]))
    assert model("good", "bad").scores == (pytest.approx(expected, abs=1e-6),)


def test_a_model_of_other_labels_is_refused(tiny_bundle):
    with pytest.raises(BundleError, match="was not trained on natural language inference"):
        lmonnx.load(tiny_bundle, task="zero-shot-classification")
    with pytest.raises(BundleError, match="none of its labels is entailment"):
        with_labels("not_entailment", "yes", "no")


def test_a_classifiers_bundle_is_loaded_for_the_task():
    model = lmonnx.load(GOLDEN / "tiny-nli", task="zero-shot-classification")
    assert isinstance(model, ZeroShotClassifier)
    other = lmonnx.load(GOLDEN / "tiny-nli", task="text-classification")
    assert other(("good", "bad")).label in {"contradiction", "neutral", "ENTAILMENT"}


def test_labels_are_a_list_or_a_str_with_commas(shoot):
    assert shoot("good", " good,bad film ,, not ") == shoot("good", LABELS)
    assert shoot("good", tuple(LABELS)) == shoot("good", LABELS)
    assert read_labels([" a", "b,c", ""]) == [" a", "b,c", ""]


@pytest.mark.parametrize("labels", [[], "", " , ,", None, 5, ["a", None], [["a"]], {"a"}])
def test_no_labels_are_refused(shoot, labels):
    with pytest.raises(InputError, match="candidate_labels"):
        shoot("good", labels)


def test_a_label_that_cannot_be_read_or_leaves_no_room_is_named(shoot):
    with pytest.raises(InputError, match="candidate_labels: text 1 is not valid Unicode"):
        shoot("good", ["a", "\ud800"])
    with pytest.raises(InputError, match=r"the label 'good good .* leaves no room for text"):
        shoot("good", ["a", "good " * 60])


@pytest.mark.parametrize(
    "template",
    [
        "no place", "", "{{}}", "{", "{} {}", "{1}", "{name}", "{0.__class__}", "{0[0]}", "{!r}",
        "{:>99999999999}", "{} {0}", None, 5, b"{}",
    ],
)  # fmt: skip
def test_a_template_without_a_place_is_refused(shoot, template):
    with pytest.raises(InputError, match=r"hypothesis_template is .* with \{\} in it"):
        shoot("good", LABELS, hypothesis_template=template)


def test_a_template_may_name_the_place_and_escape_braces():
    assert fill_template("{0}? {0}!", ["a", "{b}"]) == ["a? a!", "{b}? {b}!"]
    assert fill_template("{{{}}}", ["a"]) == ["{a}"]


@pytest.mark.parametrize("value", [1, None, "yes"])
def test_multi_label_is_true_or_false(shoot, value):
    with pytest.raises(InputError, match="multi_label is"):
        shoot("good", LABELS, multi_label=value)


@pytest.mark.parametrize("texts", [5, None, [None], b"good", [("a", "b")], [["a"]]])
def test_what_is_no_text_is_an_input_error(shoot, texts):
    with pytest.raises(InputError, match="is no text"):
        shoot(texts, LABELS)


def test_a_wrong_text_is_named_by_its_own_number(shoot):
    with pytest.raises(InputError, match="text 2 is not valid Unicode"):
        shoot(["a", "b", "\ud800"], LABELS)
    with pytest.raises(InputError, match=r"text 1 has \d+ tokens, the model takes 40"):
        shoot(["a", LONG], LABELS, long="error")


def test_long_text_slides_and_windows_are_merged(shoot):
    hypotheses = [f"This example is {label}." for label in LABELS]
    for long, merge in (("window", np.mean), ("max", np.max)):
        windows = [
            np.array([w.row for w in found], np.float64)
            for found in shoot.windows([(LONG, h) for h in hypotheses], cut=base.Cut(part=0))
        ]
        assert all(len(rows) > 1 for rows in windows)
        entailed = np.array([merge(rows[:, 2]) for rows in windows])
        expected = np.exp(entailed) / np.exp(entailed).sum()
        found = by_label(shoot(LONG, LABELS, long=long))
        np.testing.assert_allclose([found[x] for x in LABELS], expected, atol=1e-6)
        each = [merge(1 / (1 + np.exp(rows[:, 0] - rows[:, 2]))) for rows in windows]
        found = by_label(shoot(LONG, LABELS, long=long, multi_label=True))
        np.testing.assert_allclose([found[x] for x in LABELS], each, atol=1e-6)


@pytest.mark.parametrize("side", Side)
def test_only_the_text_is_truncated_on_the_models_side(side):
    model = with_labels("contradiction", "neutral", "entailment", truncation_side=side)
    label = "not " * 20  # more than half of the model's tokens
    pair = ("a b " * 40 + "c", label)
    ((encoding,),) = model._encoded([pair], base.Long.TRUNCATE, base.Cut(part=0))
    words = [model.tokenizer.token(index) for index in encoding.ids]
    assert len(words) == 40
    assert words.count("not") == 20
    assert ("c" in words) == (side is Side.LEFT)


def test_ten_thousand_labels_take_bounded_memory(shoot, monkeypatch):
    monkeypatch.setattr(shoot.session, "run", constant(shoot))
    labels = [f"l{number}" for number in range(10_000)]
    shoot("good", labels[:10])
    tracemalloc.start()
    try:
        answer = shoot("the film is good " * 3, labels)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert answer.labels == tuple(labels)  # equal scores keep the order
    assert sum(answer.scores) == pytest.approx(1)
    assert peak < 40 * 2**20


def constant(model):
    """Return a run that gives the same logits for every row."""
    wide = len(model.head.labels)
    return lambda inputs: {"logits": np.ones((len(inputs["input_ids"]), wide), np.float32)}


def test_a_stream_answers_an_endless_input(shoot, monkeypatch):
    monkeypatch.setattr(base, "LOOK_AHEAD", 8)
    read = count()
    answers = shoot.stream((f"film {next(read)}" for _ in iter(int, 1)), LABELS)
    found = list(islice(answers, 20))
    assert [answer.sequence for answer in found] == [f"film {i}" for i in range(20)]
    assert next(read) < 40


words = st.lists(st.sampled_from(["film", "good", "\u4e2d", "don't", "[SEP]", ""]), max_size=45)
texts = st.lists(words.map(" ".join), min_size=1, max_size=4)
names = st.lists(st.sampled_from(["good", "bad", "a film", "\u4e2d", ""]), min_size=1, unique=True)


@given(texts, names, st.booleans(), st.sampled_from(["window", "max", "truncate"]))
def test_neighbours_never_change_an_answer(shoot, asked, labels, multi_label, long):
    together = shoot(asked, labels, multi_label=multi_label, long=long)
    for text, answer in zip(asked, together, strict=True):
        alone = by_label(shoot(text, labels[::-1], multi_label=multi_label, long=long))
        assert answer.sequence == text
        for label, score in by_label(answer).items():
            assert score == pytest.approx(alone[label], abs=1e-5)
