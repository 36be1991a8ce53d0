"""What a loaded encoder-decoder takes and gives, whatever its task."""

from dataclasses import replace
from itertools import chain, count, islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

import lmonnx
from lmonnx.errors import InputError
from lmonnx.runtime.generate.params import SamplingParams
from lmonnx.runtime.generate.request import Completion
from lmonnx.runtime.pipelines.spoken import GrowingText
from lmonnx.runtime.pipelines.translation import Translator
from tests.unit.runtime.generate.tiny_seq2seq import FOLDER

TEXTS = ["one", "two three", "", "The third.", "   ", "one"]
BLANK = Completion("", (), "stop", 0, 0)


def test_a_bundle_is_loaded_as_its_task_and_as_its_sisters(tiny):
    assert type(tiny) is Translator
    for task in ("translation", "summarization", "text2text-generation"):
        with lmonnx.load(FOLDER, task=task) as model:
            assert model("one") == tiny("one")


def test_answers_come_in_the_order_of_the_texts_blank_for_blank(tiny):
    found = tiny(TEXTS)
    assert found == [tiny(text)[0] for text in TEXTS]
    assert found[2] == found[4] == BLANK and found[0] == found[5]
    assert tiny([]) == [] and tiny("") == [BLANK] and tiny(iter(["one"])) == [found[0]]
    assert found[3].finish_reason == "stop" and found[3].token_ids[-1] == 2
    assert found[0].prompt_tokens == 4 and found[0].completion_tokens == 24


def test_n_best_are_n_answers_of_each_text_best_first(tiny):
    params = replace(tiny.defaults, num_beams=3, n=2)
    found = tiny(TEXTS, params)
    assert len(found) == 2 * len(TEXTS) and found[4:6] == [BLANK, BLANK]
    assert found[0].score >= found[1].score and found[0].text != found[1].text
    assert list(tiny.answers(TEXTS, params)) == [found[i : i + 2] for i in range(0, 12, 2)]


def test_defaults_are_the_checkpoints_and_what_is_replaced_counts(tiny):
    assert tiny.defaults == SamplingParams(max_new_tokens=24, num_beams=2)
    short = tiny("one", replace(tiny.defaults, max_new_tokens=3))[0]
    assert short.completion_tokens == 3 and short.finish_reason == "length"
    assert tiny("one", SamplingParams(num_beams=2)) == tiny("one")
    drawn = SamplingParams(temperature=3.0, seed=1, n=3)
    assert (
        tiny("one", drawn) == tiny("one", drawn) and len({c.text for c in tiny("one", drawn)}) > 1
    )


def test_forced_ids_begin_and_bad_words_never_come(tiny):
    first = tiny("one")[0].text[0]
    assert first not in tiny("one", replace(tiny.defaults, bad_words=(first,)))[0].text
    forced = tuple(tiny._target.within("zq"))
    assert tiny("one", replace(tiny.defaults, forced_ids=forced))[0].text.startswith("zq")


def test_a_stream_is_the_answer_of_one_beam(tiny):
    params = replace(tiny.defaults, num_beams=1)
    for text in (*TEXTS, "one\n\nThe third.\n"):
        chunks = list(tiny.stream(text))
        (whole,) = tiny(text, params)
        assert "".join(chunk.text for chunk in chunks) == whole.text
        assert tuple(chain.from_iterable(chunk.token_ids for chunk in chunks)) == whole.token_ids
        assert [c.finish_reason for c in chunks] == [None] * (len(chunks) - 1) + [
            whole.finish_reason
        ]


def test_an_abandoned_stream_leaves_the_model_as_it_was(tiny):
    stream = tiny.stream("one")
    next(stream)
    stream.close()
    assert tiny("one")[0].completion_tokens == 24


def test_an_endless_input_is_answered_in_bounded_memory(tiny):
    read = []
    endless = (read.append(i) or f"text {i % 3}" for i in count())
    params = SamplingParams(max_new_tokens=1)
    found = list(islice(tiny.answers(endless, params), 5))
    assert found[0] == found[3] == tiny("text 0", params) and len(read) <= 1024


@pytest.mark.parametrize(
    ("texts", "options", "message"),
    [
        ("x", {"params": {"num_beams": 1}}, "give SamplingParams"),
        ("x", {"params": SamplingParams(max_new_tokens=96)}, "96 positions.*at most 95"),
        ("x", {"params": SamplingParams(stop=("a",))}, "stop"),
        ("x", {"params": SamplingParams(logprobs=1)}, "logprobs"),
        ("x", {"params": SamplingParams(suppress_tokens=(999,))}, "999"),
        ("x", {"prefix": 3}, "prefix is int"),
        ("x", {"prefix": "p" * 95}, "prefix leaves no room"),
        ("x", {"split": "words"}, "auto, sentences, none, truncate"),
        ("x", {"split": []}, "split is"),
        ("x", {"source_lang": "de"}, "takes none"),
        ({"a": 1}, {}, "dict is no text"),
        (b"x", {}, "bytes is no text"),
        (7, {}, "int is no text"),
        (["x", None], {}, "NoneType is no text"),
        (["x", "\ud800"], {}, "Unicode"),
        ("x" * 96, {"split": "none"}, "text 0 has 97 tokens, the model takes 96"),
    ],
)
def test_what_cannot_be_answered_is_refused_with_the_way_out(tiny, texts, options, message):
    with pytest.raises(InputError, match=message):
        tiny(texts, **options)
    with pytest.raises(InputError, match=message):
        list(tiny.answers(texts, **options))
    assert tiny("one")[0].completion_tokens == 24


def test_more_beams_than_there_can_be_are_refused():
    with pytest.raises(InputError, match="from 1 to 64"):
        SamplingParams(num_beams=1000)
    with lmonnx.load(FOLDER, slots=2) as model, pytest.raises(InputError, match="slots=3"):
        model("x", SamplingParams(num_beams=3))
    with lmonnx.load(FOLDER, context=10) as model:
        assert model.defaults.max_new_tokens == 9
        with pytest.raises(InputError, match="at most 9"):
            model("x", SamplingParams(max_new_tokens=10))


def test_a_stream_is_of_one_text_and_one_answer(tiny):
    for params in (SamplingParams(num_beams=2), SamplingParams(temperature=1.0, n=2)):
        with pytest.raises(InputError, match="one answer"):
            tiny.stream("x", params)
    with pytest.raises(InputError, match="answers"):
        tiny.stream(["x"])


def test_a_closed_model_says_so():
    with lmonnx.load(FOLDER) as model:
        pass
    with pytest.raises(InputError, match="closed"):
        model("x")


@given(st.lists(st.integers(0, 258), max_size=30))
def test_growing_text_joined_is_the_whole_text(tiny, tokens):
    text = GrowingText(tiny._target.text)
    pieces = [text.push(token) for token in tokens]
    assert "".join(pieces) + text.finish() == tiny._target.text(tokens)


def test_a_stream_says_what_a_call_says_where_an_ordinary_token_ends_it(tiny):
    (whole,) = tiny("one", SamplingParams(max_new_tokens=12))
    for stop in set(whole.token_ids):
        params = SamplingParams(max_new_tokens=12, stop_ids=(stop,))
        (found,) = tiny("one", params)
        assert "".join(chunk.text for chunk in tiny.stream("one", params)) == found.text
