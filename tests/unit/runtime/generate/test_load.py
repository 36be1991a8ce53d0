"""What `lmonnx.load` makes of a decoder, what it takes, and what it refuses."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import lmonnx
from lmonnx.bundle.manifest import CacheSpec, Generation
from lmonnx.errors import InputError
from lmonnx.runtime.generate.capacity import SLOTS, Capacity, make_cache
from lmonnx.runtime.generate.kv_cache import token_bytes
from lmonnx.runtime.generate.params import SamplingParams
from lmonnx.runtime.generate.request import Completion

TOO_LARGE = SamplingParams(max_new_tokens=200)


def test_a_text_several_texts_and_ids_are_prompts(tiny):
    params = SamplingParams(max_new_tokens=5)
    (one,) = tiny("hello", params)
    assert isinstance(one, Completion) and tiny(["hello", "hello"], params) == [one, one]
    ids = tiny.tokenizer.prompt("hello")
    assert tiny(ids, params) == tiny([ids], params) == [one] and tiny([], params) == []
    assert one.prompt_tokens == len(ids) == 6 and one.completion_tokens == len(one.token_ids) == 5


def test_without_options_it_is_greedy_within_the_context(tiny):
    long, short = "x" * 150, "x"
    for prompt in (long, short):
        completion = tiny(prompt)[0]
        most = tiny.context - completion.prompt_tokens
        assert completion == tiny(prompt, SamplingParams(max_new_tokens=most))[0]


@pytest.mark.parametrize(
    ("prompt", "params", "message"),
    [
        ("x" * 160, None, "161 tokens, the context 160"),
        ("x" * 5000, SamplingParams(max_new_tokens=1), "5001 tokens, the context 160"),
        ("x" * 9, TOO_LARGE, "10 tokens of prompt and max_new_tokens 200.*at most 150"),
        ("x", SamplingParams(num_beams=9, max_new_tokens=3), "num_beams is 9, the cache has 8"),
        (7, None, "int is no prompt"),
        ([None], None, "NoneType is no prompt"),
        (b"x", None, "bytes is no prompt"),
        ([[1, -1]], None, "-1 is no token id"),
        ([[260]], None, "260 is no token id"),
        ("x", SamplingParams(num_beams=2, max_new_tokens=3, stop=("a",)), "takes no stop"),
        ("x", SamplingParams(num_beams=2, max_new_tokens=3, logprobs=0), "takes no logprobs"),
        ([[True]], None, "True is no token id"),
        ([[]], None, "no tokens"),
        ("\ud800", None, "Unicode"),
        ("x", SamplingParams(max_new_tokens=3, bad_words_ids=((999,),)), "999"),
        ("x", SamplingParams(max_new_tokens=3, suppress_tokens=tuple(range(260))), "no token"),
    ],
)
def test_what_cannot_be_answered_is_refused_with_the_figures(tiny, prompt, params, message):
    with pytest.raises(InputError, match=message):
        tiny(prompt, params)
    assert tiny("a", SamplingParams(max_new_tokens=2))[0].completion_tokens == 2


def test_one_wrong_prompt_of_many_leaves_nothing_running(tiny):
    with pytest.raises(InputError, match="no token id"):
        tiny(["a", [999], "b"], SamplingParams(max_new_tokens=3))
    with pytest.raises(InputError, match="one completion"):
        tiny.stream("a", SamplingParams(num_beams=2))
    with pytest.raises(InputError, match="context"):
        tiny.stream("x" * 999)


@pytest.mark.parametrize(
    "options",
    [{"max_tokens": 64}, {"long": "window"}, {"task": "fill-mask"}, {"context": 161}, {"slots": 0},
     {"context": True}, {"cache_bytes": -1}, {"slots": 4, "cache_bytes": 100}, {"slots": 5000},
     {"draft": 8}],
    ids=str,
)  # fmt: skip
def test_an_option_that_does_not_fit_a_decoder_is_refused(tiny_path, options):
    with pytest.raises(InputError):
        lmonnx.load(tiny_path, **options)


@pytest.mark.parametrize("name", ["context", "slots", "cache_bytes", "draft"])
def test_a_decoders_option_is_refused_elsewhere(tiny_bundle, name):
    with pytest.raises(InputError, match=f"{name} means nothing for text-classification"):
        lmonnx.load(tiny_bundle, **{name: 8})


asked = st.none() | st.integers(1, 300)


@given(asked, asked.filter(lambda slots: slots is None or slots <= 256), st.integers(1, 10**6))
def test_a_cache_is_within_its_budget_or_refused_with_figures(context, slots, budget):
    generation = Generation(200, 10, CacheSpec(2, 1, 4), ())
    one = token_bytes(generation.cache)
    least = (context or 1) * (slots or (1 if context else SLOTS)) * one
    if (context or 0) > 200 or least > budget:
        with pytest.raises(InputError, match=f"takes? 200 tokens|allows {budget}"):
            make_cache(generation, Capacity(context, slots, budget))
        return
    cache = make_cache(generation, Capacity(context, slots, budget))
    assert cache.bytes == cache.slots * cache.length * one <= budget
    assert (context or cache.length, slots or cache.slots) == (cache.length, cache.slots)


def test_next_token_gives_the_distribution(tiny):
    found = tiny.next_token("hello", 260)
    assert sum(t.probability for t in found) == pytest.approx(1, abs=1e-4)
    assert [t.probability for t in found] == sorted((t.probability for t in found), reverse=True)
    greedy = tiny("hello", SamplingParams(max_new_tokens=1, logprobs=3))[0]
    assert found[0].token == greedy.token_ids[0]
    assert [(t.token, pytest.approx(t.logprob, abs=1e-4)) for t in found[:3]] == [
        *greedy.logprobs[0].top
    ]
    for k in (0, -1, True, 1.5):
        with pytest.raises(InputError, match="k is"):
            tiny.next_token("hello", k)


def test_a_prompts_log_probabilities_are_those_of_its_score(tiny):
    text = "once there was a dog " * 4
    params = SamplingParams(max_new_tokens=1, prompt_logprobs=2)
    first, *others = tiny(text, params)[0].prompt_logprobs
    score = tiny.score(text)
    assert first is None and [entry.token for entry in others] == list(score.token_ids[1:])
    np.testing.assert_allclose([e.logprob for e in others], score.logprobs, atol=1e-4)
    assert score.perplexity == pytest.approx(np.exp(-np.mean(score.logprobs)))


@given(st.integers(2, 40), st.integers(1, 39), st.integers(2, 120))
def test_a_long_text_is_scored_in_windows_each_token_once(tiny, window, stride, length):
    ids = [1 + i % 7 * 30 for i in range(length)]
    if stride >= window:
        with pytest.raises(InputError, match="stride"):
            tiny.score(ids, window=window, stride=stride)
        return
    score = tiny.score(ids, window=window, stride=stride)
    assert len(score.logprobs) == length - 1
    head = tiny.score(ids[:window]).logprobs
    np.testing.assert_allclose(score.logprobs[: len(head)], head, atol=1e-4)
    if length > window:
        last = (length - window + stride - 1) // stride * stride
        tail = tiny.score(ids[last:]).logprobs
        np.testing.assert_allclose(score.logprobs[-1], tail[-1], atol=1e-4)


def test_a_text_of_one_token_has_no_score(tiny):
    for text in ([5], ""):
        with pytest.raises(InputError, match="less than two tokens"):
            tiny.score(text)
    for options in ({"window": 1}, {"window": 161}, {"window": 8, "stride": 8}, {"stride": 0}):
        with pytest.raises(InputError, match=r"window|stride"):
            tiny.score("hello", **options)
