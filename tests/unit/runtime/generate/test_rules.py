"""Rules edit a copy, forget what is undone, and say what ids are wrong."""

import numpy as np
import pytest

from lmonnx.errors import InputError
from lmonnx.runtime.generate.params import SamplingParams
from lmonnx.runtime.generate.rules import Rules

V = 12
ROW = np.linspace(-2, 3, V, dtype=np.float32)


def rules(prompt=(1, 2), ends=(0,), encode=None, **options):
    params = SamplingParams(**options)
    return Rules(params, prompt=prompt, stop_ids=ends, vocabulary=V, encode=encode)


def banned(row):
    return np.flatnonzero(np.isneginf(row)).tolist()


def test_the_default_returns_the_very_row():
    idle = rules()
    assert idle.is_idle and idle.apply(ROW, [3]) is ROW


def test_the_row_that_was_given_stays_as_it_is():
    before = ROW.copy()
    assert rules(suppress_tokens=[3]).apply(ROW, []) is not ROW
    np.testing.assert_array_equal(ROW, before)


def test_presence_and_frequency_count_the_completion_only():
    row = rules(prompt=(5, 5), presence_penalty=0.5, frequency_penalty=0.25).apply(ROW, [4, 4, 7])
    expected = ROW.copy()
    expected[[4, 7]] -= (0.5 + 2 * 0.25, 0.5 + 0.25)
    np.testing.assert_allclose(row, expected, rtol=1e-6)


def test_repetition_counts_the_prompt_too():
    row = rules(prompt=(0, 11), repetition_penalty=2.0).apply(ROW, [])
    assert row[0] == ROW[0] * 2 and row[11] == ROW[11] / 2 and (row[1:11] == ROW[1:11]).all()


def test_a_bad_word_is_banned_at_a_start_and_after_a_space():
    spelled = {"cat": [3, 4], " cat": [5]}
    ruled = rules(bad_words=["cat"], encode=spelled.__getitem__)
    assert banned(ruled.apply(ROW, [1])) == [5]
    assert banned(ruled.apply(ROW, [1, 3])) == [4, 5]


def test_a_bad_word_without_tokens_is_an_input_error():
    with pytest.raises(InputError, match="no tokens"):
        rules(bad_words=["cat"], encode=lambda text: [])


def test_a_stop_id_is_never_a_bad_word_but_may_be_suppressed():
    assert banned(rules(bad_words_ids=[[0]]).apply(ROW, [])) == []
    assert banned(rules(suppress_tokens=[0]).apply(ROW, [])) == [0]


def test_stop_ids_wait_for_the_minimum():
    ruled = rules(ends=(0, 9, V + 3), min_new_tokens=2)
    assert banned(ruled.apply(ROW, [3])) == [0, 9] and banned(ruled.apply(ROW, [3, 4])) == []


def test_forced_tokens_stand_at_both_ends():
    ruled = rules(forced_ids=[4, 5], forced_eos_token_id=0, max_new_tokens=4)
    text: list[int] = []
    for _ in range(4):
        text.append(int(ruled.apply(ROW, text).argmax()))
    assert text == [4, 5, 11, 0]


@pytest.mark.parametrize(
    "options",
    [
        {"logit_bias": {V: 1.0}},
        {"suppress_tokens": [V]},
        {"forced_ids": [99]},
        {"forced_eos_token_id": V},
        {"bad_words_ids": [[1, V]]},
        {"stop_ids": (V,)},
    ],
)
def test_an_id_outside_the_vocabulary_is_an_input_error(options):
    with pytest.raises(InputError, match="the model's ids go to 11"):
        rules(**options)


def test_a_long_text_costs_a_step_no_more_than_its_new_token():
    ruled = rules(repetition_penalty=1.1, no_repeat_ngram_size=3, prompt=[1, 2, 3] * 5000)
    text = [1, 2, 3, 4] * 500
    ruled.apply(ROW, text)
    history = ruled._history
    pushed = []
    history._push = pushed.append
    ruled.apply(ROW, [*text, 5])
    assert pushed == [5]
