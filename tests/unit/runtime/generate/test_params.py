"""Every option is checked when it is given, and the error says what it may be."""

from math import inf, nan

import pytest

from lmonnx.errors import InputError
from lmonnx.runtime.generate.params import SamplingParams

WRONG = {
    "temperature": [-1, nan, inf, 1e-9, "hot", True, None],
    "top_p": [-0.1, 1.1, nan],
    "min_p": [-0.1, 2, nan],
    "typical_p": [0, 1.1, nan],
    "top_k": [-1, 1.5, True, "5"],
    "max_new_tokens": [0, -1, 2**40, 1.0],
    "min_new_tokens": [-1, 257],
    "seed": [-1, 2**63, 1.5],
    "repetition_penalty": [0, -1, nan, inf],
    "presence_penalty": [-3, nan],
    "frequency_penalty": [3, inf],
    "no_repeat_ngram_size": [-1],
    "bad_words": [[""], [1], 5, ["x" * 2000], ["x"] * 2000],
    "bad_words_ids": [[[]], [[-1]], [3], [["a"]]],
    "suppress_tokens": [[-1], [1.5], [True], 5, range(10)],
    "logit_bias": [{1: nan}, {1: inf}, {-1: 1}, {"1": 1}, [1], dict.fromkeys(range(5000), 1.0)],
    "forced_ids": [[-1]],
    "forced_eos_token_id": [-1, 1.5],
    "stop": [[""], [1], ["x"] * 10_000, None, ["x" * 5000], {"a"}],
    "stop_ids": [[-1], ["a"], 7],
    "ignore_eos": [1, "yes"],
    "num_beams": [0, 65, 1.5],
    "n": [0, 2, 1000],
    "length_penalty": [nan, inf, 1e9],
    "early_stopping": ["always", 1, None],
    "logprobs": [-1, 10**6, 1.5],
    "prompt_logprobs": [-1],
    "prompt_lookup": [-1, 1000],
    "schema": [5, ["a"], True],
    "regex": [5],
    "grammar": [b"start: /a/"],
}


@pytest.mark.parametrize(("name", "value"), [(n, v) for n, many in WRONG.items() for v in many])
def test_a_wrong_option_is_an_input_error_that_names_it(name, value):
    with pytest.raises(InputError, match=name) as caught:
        SamplingParams(**{name: value})
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"min_new_tokens": 9, "max_new_tokens": 8}, "lower it"),
        ({"num_beams": 2, "n": 3}, "raise num_beams"),
        ({"num_beams": 2, "temperature": 1.0}, "temperature=0"),
        ({"num_beams": 2, "prompt_lookup": 3}, "num_beams=1"),
        ({"num_beams": 2, "regex": "a"}, "num_beams=1"),
        ({"n": 2}, "raise the temperature"),
        ({"schema": "{}", "regex": "a"}, "one of"),
        ({"temperature": 1e-9}, "greedy"),
    ],
)
def test_what_cannot_go_together_is_an_input_error_with_the_way_out(options, says):
    with pytest.raises(InputError, match=says):
        SamplingParams(**options)


def test_the_default_is_greedy_with_no_rule():
    params = SamplingParams()
    assert params.temperature == 0 and not params.is_structured and params.num_beams == 1


def test_lists_and_a_lone_stop_become_tuples():
    params = SamplingParams(stop="\n", stop_ids=[1], bad_words=["a"], bad_words_ids=[[1, 2]])
    assert (params.stop, params.stop_ids) == (("\n",), (1,))
    assert (params.bad_words, params.bad_words_ids) == (("a",), ((1, 2),))


def test_limits_themselves_are_allowed():
    SamplingParams(temperature=100, top_p=0, min_p=1, seed=2**63 - 1, n=128, logprobs=0)
    SamplingParams(num_beams=64, n=64, length_penalty=-10, early_stopping="never")
    SamplingParams(logit_bias={3: -inf, 4: 100}, stop=["x"] * 64)
