"""Entities and tokens: transformers' frozen answers, long texts, options and refusals."""

import json
from dataclasses import fields, replace
from itertools import count, islice, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lmonnx
from lmonnx import Entity, InputError, Token
from lmonnx.bundle.manifest import Side, TextSpec
from lmonnx.runtime.pipelines import base
from lmonnx.runtime.pipelines.entities import merge_overlapping
from lmonnx.runtime.pipelines.token_classification import TokenClassifier
from lmonnx.runtime.pipelines.tokens import merge
from lmonnx.runtime.tokenizer import Cut, Encoding, Spans
from tests.conftest import GOLDEN

CASES = json.loads((GOLDEN / "tiny-ner.json").read_text(encoding="utf-8"))["answers"]
STRATEGIES = ["none", "simple", "first", "average", "max"]
LONG = "the good film filming, is not x7 bad " * 20
texts = st.text(max_size=60) | st.sampled_from([case[0] for case in CASES])


@pytest.fixture(scope="module")
def model():
    return lmonnx.load(GOLDEN / "tiny-ner", threads=1)


def values(item):
    return [getattr(item, field.name) for field in fields(item)]


def assert_near(found, expected):
    for ours, theirs in zip(found, expected, strict=True):
        ours = values(ours)
        assert [ours[0], *ours[2:]] == [theirs[0], *theirs[2:]]
        assert ours[1] == pytest.approx(theirs[1], abs=2e-5)


@pytest.mark.parametrize(("text", "options", "expected"), CASES, ids=lambda v: repr(v)[:40])
def test_answers_are_those_that_transformers_gave(model, text, options, expected):
    assert_near(model(text, **options), expected)


def test_fields_are_transformers_keys_in_their_order():
    assert [field.name for field in fields(Token)] == "entity score index word start end".split()
    assert [field.name for field in fields(Entity)] == "entity_group score word start end".split()


def test_one_text_is_a_list_and_many_are_a_list_of_lists_in_order(model):
    many = [case[0] for case in CASES[:8]]
    for found, text in zip(model(many, ignore_labels=[]), many, strict=True):
        assert_near(found, [values(token) for token in model(text, ignore_labels=())])
    assert model(iter(many[:2])) == model(tuple(many[:2])) == model(many[:2])
    assert model(["zzz"]) == [model("zzz")]


@pytest.mark.parametrize("text", ["", " ", "\n"])
def test_a_text_without_tokens_has_no_entities(model, text):
    assert model(text) == model(text, aggregation_strategy="max") == []
    assert next(model.raw([text])).shape == (0, 6)
    assert model([]) == []


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_long_text_is_answered_to_its_end(model, strategy):
    found = model(LONG, aggregation_strategy=strategy, ignore_labels=[])
    assert found[0].start == 0
    assert found[-1].end == len(LONG.rstrip())
    assert all(a.end <= b.start for a, b in pairwise(found))


def test_a_token_of_long_text_counts_in_the_uncut_text(model):
    tokens = model(LONG, ignore_labels=[])
    assert [token.index for token in tokens] == list(range(1, len(tokens) + 1))
    assert len(next(model.raw([LONG]))) == len(tokens)


def test_windows_cut_on_the_left_begin_at_the_end_and_cover_every_token_too(model):
    text = replace(model.bundle.manifest.text.source, truncation_side=Side.LEFT)
    manifest = replace(model.bundle.manifest, text=TextSpec(text, 64))
    left = TokenClassifier(replace(model.bundle, manifest=manifest))
    first, *_, last = left.tokenizer.encode([LONG], cut=Cut(stride=9), spans=True)
    assert first.spans.offsets[-2][1] == len(LONG.rstrip())
    assert last.spans.offsets[1] == (0, 3)
    tokens = left(LONG, ignore_labels=[])
    assert [token.index for token in tokens] == list(range(1, len(tokens) + 1))
    assert left(LONG, long="truncate", ignore_labels=[])[0].index == 1


def test_long_text_may_be_cut_or_refused(model):
    cut = model(LONG, long="truncate", ignore_labels=[])
    assert len(cut) == 62
    assert cut[-1].index == 62
    with pytest.raises(InputError, match="the model takes 64"):
        model(LONG, long="error")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"aggregation_strategy": "best"}, "must be one of none, simple, first, average, max"),
        ({"aggregation_strategy": None}, "must be one of none"),
        ({"stride": 5}, "merges entities, and aggregation_strategy='none' makes none"),
        ({"stride": 62, "aggregation_strategy": "max"}, "stride is 62, must be from 0 to 61"),
        ({"stride": -1, "aggregation_strategy": "max"}, "must be from 0 to 61"),
        ({"stride": float("nan"), "aggregation_strategy": "max"}, "must be from 0 to 61"),
        ({"stride": True, "aggregation_strategy": "max"}, "must be from 0 to 61"),
        ({"stride": 5, "aggregation_strategy": "max", "long": "error"}, "leave one out"),
        ({"long": "max"}, "no use"),
        ({"long": "cut"}, "must be one of window"),
        ({"ignore_labels": "O"}, "must be a list of labels"),
        ({"ignore_labels": None}, "must be a list of labels"),
    ],
)
@pytest.mark.parametrize("text", ["good", []])
def test_a_wrong_option_is_refused_in_one_line(model, options, message, text):
    with pytest.raises(InputError, match=message) as caught:
        model(text, **options)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "text", [5, None, b"a", [b"a"], [None], ["a", 5], {"text": "a"}, [("a", "b")], "\ud800"]
)
def test_what_is_no_text_is_refused_in_one_line(model, text):
    with pytest.raises(InputError) as caught:
        model(text)
    assert str(caught.value).isprintable()


def test_a_bundle_cannot_be_loaded_to_take_the_highest_of_windows():
    with pytest.raises(InputError, match="no use"):
        lmonnx.load(GOLDEN / "tiny-ner", long="max")


def test_a_stream_answers_an_endless_input(model, monkeypatch):
    monkeypatch.setattr(base, "LOOK_AHEAD", 4)
    read = count()
    answers = model.stream((f"film {next(read)}" for _ in iter(int, 1)), ignore_labels=[])
    found = list(islice(answers, 10))
    assert found[9][-1].end == len("film 9")
    assert next(read) <= 20


def test_of_entities_that_overlap_the_longest_stays_then_the_surest():
    short, long, surer = (
        Entity("A", 0.9, "a", 0, 2),
        Entity("B", 0.1, "b", 1, 4),
        Entity("C", 0.2, "c", 1, 4),
    )
    assert merge_overlapping([short, long, surer]) == [surer]
    assert merge_overlapping([]) == []
    assert merge_overlapping([Entity("A", 1, "a", 4, 5), short]) == [
        short,
        Entity("A", 1, "a", 4, 5),
    ]


@settings(max_examples=30)
@given(st.lists(texts, min_size=1, max_size=8), st.sampled_from(STRATEGIES), st.randoms())
def test_neighbours_order_and_padding_never_change_an_answer(model, items, strategy, draw):
    order = draw.sample(range(len(items)), len(items))
    raw = list(model.raw([items[i] for i in order]))
    for place, logits in zip(order, raw, strict=True):
        np.testing.assert_allclose(logits, next(model.raw([items[place]])), atol=1e-5)
    answers = model(items, aggregation_strategy=strategy, ignore_labels=[])
    assert [len(found) for found in answers] == [
        len(model(item, aggregation_strategy=strategy, ignore_labels=[])) for item in items
    ]


@given(st.integers(1, 200), st.integers(1, 40), st.data())
def test_windows_merged_have_every_token_once_with_the_most_around_it(length, size, data):
    overlap = data.draw(st.integers(0, size - 1))
    starts = range(0, max(1, length - overlap), size - overlap)
    windows = [window(i, range(s, min(s + size, length)), length) for i, s in enumerate(starts)]
    tokens = merge(windows)
    assert tokens.index == list(range(1, length + 1))
    assert tokens.ids == list(range(100, 100 + length))
    shown = [w.encoding.spans.places[1:-1] for w in windows]
    for place, (source,) in zip(tokens.index, tokens.rows.tolist(), strict=True):
        around = [min(place - s[0], s[-1] - place) for s in shown if s[0] <= place <= s[-1]]
        chosen = shown[int(source)]
        assert min(place - chosen[0], chosen[-1] - place) == max(around)


def window(number, part, length):
    """Give a window of the tokens 100, 101, …, with its number as their only logit."""
    places = [0, *(i + 1 for i in part), length + 1]
    parts = [None, *(0 for _ in part), None]
    spans = Spans([(p, p + 1) for p in places], parts, parts, places)
    row = np.full((len(places), 1), number, np.float32)
    return base.Window(Encoding(0, [99 + p for p in places], [0] * len(places), spans), row)
