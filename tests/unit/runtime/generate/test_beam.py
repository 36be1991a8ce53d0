"""Beams as a state machine; that it is transformers' search is tests/parity's claim."""

import numpy as np
import pytest

from lmonnx.errors import InputError
from lmonnx.runtime.generate.beam import BeamSearch
from lmonnx.runtime.generate.beams import Beams
from lmonnx.runtime.generate.params import SamplingParams
from lmonnx.runtime.generate.voice import Voice


def search(vocabulary=4, **options):
    params = SamplingParams(**{"num_beams": 2, "max_new_tokens": 3} | options)
    return BeamSearch(params, stop_ids=[0], vocabulary=vocabulary)


def logs(*rows):
    return np.log(np.array(rows, np.float32))


def test_all_beams_begin_as_one():
    beams = search()
    step = beams.advance(logs([0.1, 0.2, 0.3, 0.4]))
    assert step.parents.tolist() == [0, 0] and step.tokens.tolist() == [3, 2]
    assert beams.sequences == [(3,), (2,)] and not beams.is_done


def test_a_beam_goes_on_from_the_parent_that_the_step_names():
    beams = search()
    beams.advance(logs([0.1, 0.2, 0.3, 0.4]))
    step = beams.advance(logs([0.01, 0.01, 0.01, 0.97], [0.01, 0.97, 0.01, 0.01]))
    assert list(zip(step.parents.tolist(), step.tokens.tolist(), strict=True)) == [(0, 3), (1, 1)]
    assert beams.sequences == [(3, 3), (2, 1)]


def test_a_stop_id_ends_a_sequence_and_stands_in_it():
    beams = search(early_stopping=True, n=2)
    beams.advance(logs([0.5, 0.2, 0.2, 0.1]))
    assert not beams.is_done
    beams.advance(logs([0.9, 0.05, 0.03, 0.02], [0.8, 0.1, 0.05, 0.05]))
    assert beams.is_done
    (first, score), (second, _) = beams.best()
    assert (first, second) == ([0], [1, 0])
    np.testing.assert_allclose(score, np.log(0.5), rtol=1e-6)


def test_the_length_ends_every_sequence():
    beams = search(max_new_tokens=1, n=2)
    beams.advance(logs([0.1, 0.2, 0.3, 0.4]))
    assert beams.is_done and [tokens for tokens, _ in beams.best()] == [[3], [2]]


def test_of_equal_scores_the_lower_id_comes_first():
    beams = search()
    assert beams.advance(logs([0.25] * 4)).tokens.tolist() == [1, 2]


def test_the_best_of_a_beam_are_enough():
    beams, other = search(vocabulary=50), search(vocabulary=50)
    assert beams.candidates == 4
    row = np.log(np.arange(1, 51, dtype=np.float32) / 1275)[None]
    ids = np.array([[49, 48, 47, 46]])
    whole, short = beams.advance(row), other.advance_top(np.take_along_axis(row, ids, 1), ids)
    assert whole.tokens.tolist() == short.tokens.tolist() == [49, 48]


@pytest.mark.parametrize("penalty", [-10.0, -7.5, 10.0])
@pytest.mark.parametrize("early", [False, True, "never"])
def test_scores_beyond_any_measure_end_at_the_limit_with_all_answers(penalty, early):
    beams = search(length_penalty=penalty, early_stopping=early, n=2, max_new_tokens=90)
    rng, steps = np.random.default_rng(0), 0
    while not beams.is_done:
        beams.advance(np.log(rng.dirichlet(np.ones(4), 2)).astype(np.float32) * [1e3, 1, 1, 1])
        steps += 1
    assert steps <= 90 and len(beams.best()) == 2
    assert all(np.isfinite(score) for _, score in beams.best())


def test_where_no_token_is_left_what_has_ended_is_the_answer_and_else_there_is_none():
    none = np.full((2, 4), -np.inf, np.float32)
    beams = search(n=2, max_new_tokens=9)
    beams.advance(none)
    with pytest.raises(InputError, match="no token can come next"):
        beams.best()
    assert beams.is_done
    beams = search(n=2, max_new_tokens=9)
    beams.advance(logs([0.6, 0.3, 0.05, 0.05]))
    beams.advance(none)
    assert beams.is_done
    assert [tokens for tokens, _ in beams.best()] == [[0], [0]]


def test_nan_is_no_answer():
    beams = search(max_new_tokens=3)
    beams.advance(logs([0.1, 0.2, 0.3, 0.4]))
    beams.advance_top(np.full((2, 4), np.nan, np.float32), np.array([[0, 1, 2, 3]] * 2))
    assert beams.is_done
    with pytest.raises(InputError, match="gave NaN"):
        beams.best()


def test_a_prompt_of_which_the_model_makes_nan_is_refused_by_every_search():
    voice = Voice(4, (0,), encode=lambda text: [], decode=lambda ids: "", constrain=lambda _: None)
    job = Beams([1, 2], SamplingParams(num_beams=2, max_new_tokens=3), voice)
    with pytest.raises(InputError, match="gave NaN"):
        job.take(np.array([[0, np.nan, 1, 2]], np.float32), None)
