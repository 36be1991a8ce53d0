"""Answers from a context: transformers' frozen ones, forms of input, options and refusals."""

import json
from dataclasses import fields
from itertools import count, islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lmonnx
from lmonnx import Answer, InputError
from lmonnx.runtime.numerics import softmax
from lmonnx.runtime.pipelines import answer_spans, base
from lmonnx.runtime.pipelines.answer_spans import Search, find_spans
from lmonnx.runtime.tokenizer import Encoding, Spans
from tests.conftest import GOLDEN

CASES = json.loads((GOLDEN / "tiny-qa.json").read_text(encoding="utf-8"))["answers"]
CONTEXT = "The film is not good, filming bad!"
LONG = "the good film filming, is not x7 bad " * 20
texts = st.text(min_size=1, max_size=60) | st.sampled_from([case[1] for case in CASES])


@pytest.fixture(scope="module")
def model():
    return lmonnx.load(GOLDEN / "tiny-qa", threads=1)


def assert_near(found, expected):
    assert list(found[1:]) == list(expected[1:])
    assert found[0] == pytest.approx(expected[0], abs=2e-5)


def values(answer):
    return [getattr(answer, field.name) for field in fields(answer)]


@pytest.mark.parametrize(
    ("question", "context", "options", "expected"), CASES, ids=lambda v: repr(v)[:40]
)
def test_answers_are_those_that_transformers_gave(model, question, context, options, expected):
    found = model(question, context, **options)
    many = isinstance(found, list)
    for ours, theirs in zip(
        found if many else [found], expected if many else [expected], strict=True
    ):
        assert_near(values(ours), theirs)


def test_fields_are_transformers_keys_in_their_order():
    assert [field.name for field in fields(Answer)] == "score start end answer".split()


def test_every_form_of_a_question_gives_the_same_answer(model):
    answer = model("x7", CONTEXT)
    asked = {"question": "x7", "context": CONTEXT}
    assert model(question="x7", context=CONTEXT) == answer
    assert model(asked) == model(("x7", CONTEXT)) == answer
    assert model([asked]) == model([("x7", CONTEXT)]) == [answer]
    assert model(["x7"], CONTEXT) == model(["x7"], [CONTEXT]) == [answer]
    assert model((q for q in ["x7"]), (c for c in [CONTEXT])) == [answer]


def test_many_questions_are_answered_in_their_order(model):
    pairs = [(case[0], case[1]) for case in CASES]
    for pair, found in zip(pairs, model(pairs), strict=True):
        assert_near(values(found), values(model(*pair)))
    assert model([]) == model([], CONTEXT) == model([], []) == []


def test_an_answer_is_a_part_of_the_context(model):
    for found in model("x7", LONG, top_k=20):
        assert found.answer == LONG[found.start : found.end] != ""
    scores = [answer.score for answer in model("x7", LONG, top_k=20)]
    assert scores == sorted(scores, reverse=True)


def test_a_context_of_blanks_has_an_empty_answer(model):
    assert model("x7", " ") == Answer(0.0, 0, 0, "")
    assert model(" ", "\n", top_k=3) == [Answer(0.0, 0, 0, "")]
    assert model("x7", " ", handle_impossible_answer=True).answer == ""
    assert model(" ", CONTEXT).score > 0


def test_a_million_characters_are_answered(model):
    context = "the film " * 111_112
    found = model("x7", context + "good", doc_stride=0, max_answer_len=3)
    assert context[found.start : found.end] == found.answer != ""


def test_raw_gives_start_and_end_of_the_first_window(model):
    short, long = model.raw([("x7", "good film"), ("x7", LONG)])
    assert short.shape == (2, 7)
    assert long.shape == (2, 64)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("x7",), "has no context"),
        (("x7", None), "has no context"),
        (("x7", 5), "must be str"),
        (("x7", ["a"]), "must be str"),
        (("", "a"), "question is empty"),
        (("a", ""), "context is empty"),
        (({"question": "a"},), "with a context"),
        (({"context": "a"},), "with a context"),
        (({"question": "a", "context": None},), "must be str"),
        (({"question": "a", "context": "b"}, "c"), "leave one out"),
        ((None, "a"), "no question"),
        ((5, "a"), "no question"),
        ((b"a", "a"), "no question"),
        ((["a", "b"],), "with a context"),
        ((["a", "b"], ["c"]), "2 questions and 1 contexts"),
        ((["a"], 5), "no context"),
        ((["a", None], "c"), "must be str"),
        (("\ud800", "a"), "not valid Unicode"),
        (("a", "\udfff"), "not valid Unicode"),
        ((" the" * 70, CONTEXT), "shorten the other text"),
    ],
    ids=repr,
)
def test_what_is_no_question_is_refused_in_one_line(model, arguments, message):
    with pytest.raises(InputError, match=message) as caught:
        model(*arguments)
    assert str(caught.value).isprintable()


NAN = float("nan")


@pytest.mark.parametrize(
    "options",
    [
        *({"top_k": value} for value in (0, -1, NAN, "1", None, True)),
        *({"max_answer_len": value} for value in (0, NAN, 1.5, None)),
        *({"max_seq_len": value} for value in (0, 3, NAN, "x")),
        *({"doc_stride": value} for value in (-1, 61, 1000, NAN, "x", False)),
        {"doc_stride": 20, "max_seq_len": 20},
        {"max_question_len": NAN},
        {"handle_impossible_answer": "no"},
        {"align_to_words": None},
    ],
    ids=repr,
)
@pytest.mark.parametrize("asked", [("x7", CONTEXT), ([],)])
def test_a_wrong_option_is_refused_in_one_line(model, options, asked):
    with pytest.raises(InputError, match=f"{next(iter(options))} is ") as caught:
        model(*asked, **options)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("long", ["max", "truncate"])
def test_a_context_is_never_cut(long):
    with pytest.raises(InputError, match="answered whole"):
        lmonnx.load(GOLDEN / "tiny-qa", long=long)


def test_a_long_context_may_be_refused():
    strict = lmonnx.load(GOLDEN / "tiny-qa", long="error")
    assert strict("x7", CONTEXT).answer
    with pytest.raises(InputError, match="the model takes 64"):
        strict("x7", LONG)


def test_a_stream_answers_an_endless_input(model, monkeypatch):
    monkeypatch.setattr(base, "LOOK_AHEAD", 4)
    read = count()
    items = ({"question": "x7", "context": f"film {next(read)}"} for _ in iter(int, 1))
    assert all(answer.answer for answer in islice(model.stream(items), 10))
    assert next(read) <= 20


@settings(max_examples=30)
@given(st.lists(st.tuples(texts, texts), min_size=1, max_size=6), st.randoms())
def test_neighbours_order_and_padding_never_change_an_answer(model, pairs, draw):
    order = draw.sample(range(len(pairs)), len(pairs))
    pairs = [(question[:9], context) for question, context in pairs]
    together = model([pairs[i] for i in order], doc_stride=4)
    for place, found in zip(order, together, strict=True):
        alone = model(*pairs[place], doc_stride=4)
        assert found.score == pytest.approx(alone.score, abs=1e-5)


rows = st.lists(st.floats(-9, 9, width=32), min_size=4, max_size=24)


@given(rows, st.randoms(), st.integers(1, 30), st.integers(1, 9), st.integers(1, 64))
def test_the_likeliest_spans_are_found_whatever_the_block(row, draw, longest, top_k, block):
    logits = np.array([row, draw.sample(row, len(row))], np.float32)
    size = len(row)
    parts = [None, 0, None, *[1] * (size - 4), None]
    spans = Spans([(i, i + 1) for i in range(size)], parts, [None] * size, list(range(size)))
    search = Search(top_k, longest, handle_impossible_answer=False, align_to_words=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(answer_spans, "_BLOCK", block)
        found = find_spans(logits, Encoding(0, list(range(size)), [0] * size, spans), 1, search)
    likely = softmax(logits[:, [0, *range(3, size - 1)]].astype(float))[:, 1:]
    pairs = np.triu(np.tril(np.outer(*likely), longest - 1))
    expected = np.sort(pairs[pairs > 0])[::-1][:top_k]
    np.testing.assert_allclose(found.scores, expected, rtol=1e-9)
    assert (found.ends - found.starts < longest).all()
