"""Lanes: what each row takes next, and which rows of the cache go on from which."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmonnx.bundle.manifest import CacheSpec
from lmonnx.errors import InputError
from lmonnx.runtime.generate import source_job
from lmonnx.runtime.generate.encoder_decoder import Scores
from lmonnx.runtime.generate.kv_cache import KVCache
from lmonnx.runtime.generate.lanes import make_lane
from lmonnx.runtime.generate.logprobs import likeliest, log_softmax
from lmonnx.runtime.generate.params import SamplingParams
from lmonnx.runtime.generate.source_job import Manner, SourceJob

V = 9


def job(vocabulary=V, **options):
    params = SamplingParams(**{"max_new_tokens": 4} | options)
    return SourceJob([3, 4], Manner(params, start_id=8, stop_ids=[0], vocabulary=vocabulary))


def scores(logits, top):
    logits = np.asarray(logits, np.float32)
    logprobs = log_softmax(logits)
    ids = np.array([likeliest(row, top) for row in logprobs], np.int64).reshape(len(logits), top)
    return Scores(logits, np.take_along_axis(logprobs, ids, 1), ids)


def lane_of(*jobs, vocabulary=V):
    lane = make_lane(jobs[0].kind, vocabulary)
    lane.add(jobs)
    return lane


def run(lane, rng, steps, vocabulary=V):
    for _ in range(steps):
        rows = len(lane.jobs) * lane.kind.beams
        lane.advance(scores(rng.standard_normal((rows, vocabulary)), lane.top))


def test_a_row_takes_its_likeliest_token_that_is_not_banned():
    jobs = [job(suppress_tokens=(5,)) for _ in range(2)]
    lane = lane_of(*jobs)
    assert lane.last.tolist() == [8, 8] and lane.lengths.tolist() == [0, 0]
    lane.advance(scores([[0, 1, 2, 3, 4, 9, 0, 0, 0], [7, 0, 0, 0, 0, 9, 0, 0, 0]], 0))
    assert [j.generated for j in jobs] == [[4], [0]] and lane.last.tolist() == [4, 0]
    assert not jobs[0].has_ended
    assert jobs[1].results[0].token_ids == (0,) and jobs[1].results[0].finish_reason == "stop"


def test_tokens_are_forced_at_the_start_and_at_the_end():
    one = job(forced_ids=(6,), forced_eos_token_id=0, max_new_tokens=3)
    run(lane_of(one), np.random.default_rng(0), 3)
    assert one.generated[0] == 6 and one.generated[-1] == 0 and len(one.generated) <= 3


def test_the_length_ends_a_row():
    one = job(suppress_tokens=(0,), max_new_tokens=2)
    run(lane_of(one), np.random.default_rng(1), 2)
    assert one.results[0].finish_reason == "length" and len(one.results[0].token_ids) == 2


def test_a_rule_that_looks_back_is_obeyed():
    one = job(no_repeat_ngram_size=1, max_new_tokens=4)
    lane = lane_of(one)
    for _ in range(4):
        lane.advance(scores([[0, 9, 8, 7, 6, 5, 4, 3, 2]], 0))
    assert one.generated == [1, 2, 3, 4]


def test_logits_of_nan_are_the_fault_of_their_row_alone():
    jobs = [job(), job()]
    lane = lane_of(*jobs)
    lane.advance(scores([[np.nan] * V, [0, 1, 2, 3, 4, 5, 6, 7, 8]], 0))
    assert isinstance(jobs[0].error, InputError) and jobs[1].generated == [8]


def test_beams_of_nan_are_the_fault_of_their_job_alone():
    jobs = [job(num_beams=2), job(num_beams=2)]
    lane = lane_of(*jobs)
    given_scores = scores(np.zeros((2, V)), lane.top)
    given_scores.top_logprobs[0] = np.nan
    lane.advance(given_scores)
    assert isinstance(jobs[0].error, InputError) and jobs[1].error is None


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 4), st.sampled_from([(), (5,), (2, 7), range(2, 8)]),
       st.booleans())  # fmt: skip
def test_ruled_beams_are_those_of_bans_alone(seed, beams, bans, normal):
    """A rule without effect sends a job through whole rows of logits: the same search."""
    options = {"num_beams": beams, "n": beams, "suppress_tokens": tuple(bans), "max_new_tokens": 5}
    options["renormalize_logits"] = normal
    plain, ruled = job(**options), job(**options, logit_bias={1: 0.0})
    for one in (plain, ruled):
        run(lane_of(one), np.random.default_rng(seed), 5)
    assert ruled.is_ruled and not plain.is_ruled
    assert [each.token_ids for each in plain.results] == [each.token_ids for each in ruled.results]
    for one, other in zip(plain.results, ruled.results, strict=True):
        assert one.score == pytest.approx(other.score, abs=1e-5 if normal else 0, rel=0)
    assert plain.results
    assert not {t for found in plain.results for t in found.token_ids} & set(bans)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 3), st.integers(1, 5))
def test_no_answer_is_shorter_than_its_minimum(seed, beams, least):
    """Told of a lane without a rule, as a rule of each row would do it."""
    options = {"num_beams": beams, "n": beams, "min_new_tokens": least, "max_new_tokens": 6}
    plain, ruled = job(**options), job(**options, logit_bias={1: 0.0})
    for one in (plain, ruled):
        run(lane_of(one), np.random.default_rng(seed), 6)
    assert ruled.is_ruled and not plain.is_ruled
    assert plain.results == ruled.results
    assert all(len(found.token_ids) > least or 0 not in found.token_ids for found in plain.results)


def test_a_minimum_is_each_jobs_own():
    jobs = [job(min_new_tokens=least, num_beams=2) for least in (1, 3)]
    run(lane_of(*jobs), np.random.default_rng(2), 4)
    alone = job(min_new_tokens=3, num_beams=2)
    assert jobs[0].kind == alone.kind
    lane, rng = lane_of(alone), np.random.default_rng(2)
    for _ in range(4):
        lane.advance(scores(rng.standard_normal((4, V))[2:], lane.top))
    assert jobs[1].results == alone.results


LOWERING = {
    "penalty": {"repetition_penalty": 1.7},
    "hard penalty": {"repetition_penalty": 40.0},
    "n-grams": {"no_repeat_ngram_size": 2},
    "no token twice": {"no_repeat_ngram_size": 1, "min_new_tokens": 5},
    "counts": {"frequency_penalty": 0.7, "presence_penalty": 1.1},
    "bias": {"logit_bias": dict.fromkeys(range(0, 60, 2), -9.0)},
    "words": {"bad_words_ids": ((5, 7), (9,), (1, 2, 3))},
}


@pytest.mark.parametrize("rules", LOWERING.values(), ids=LOWERING.keys())
@pytest.mark.parametrize("seed", range(4))
def test_rules_that_lower_need_only_the_best_of_a_row(rules, seed, monkeypatch):
    """Where that is not enough, as under a hard penalty, the whole row is looked at."""
    options = {"num_beams": 3, "n": 3, "max_new_tokens": 12, "vocabulary": 60} | rules
    best = job(**options)
    assert best.is_ruled and best.kind.spare
    monkeypatch.setattr(source_job, "only_lowers", lambda params: False)
    whole = job(**options)
    assert not whole.kind.spare
    for one in (best, whole):
        rng = np.random.default_rng(seed)
        run(lane_of(one, vocabulary=60), rng, 12, vocabulary=60)
    assert [one.token_ids for one in best.results] == [one.token_ids for one in whole.results]
    for one, other in zip(best.results, whole.results, strict=True):
        assert one.score == pytest.approx(other.score, abs=1e-6, rel=0)


@pytest.mark.parametrize(
    "rules",
    [
        {"repetition_penalty": 0.5},
        {"logit_bias": {3: 0.1}},
        {"presence_penalty": -0.1},
        {"frequency_penalty": -0.1},
        {"no_repeat_ngram_size": 2, "renormalize_logits": True},
    ],
)
def test_rules_that_may_lift_a_token_see_whole_rows(rules):
    one = job(num_beams=2, **rules)
    assert one.is_ruled and not one.manner.only_lowers and not one.kind.spare


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 3), st.integers(2, 4))
def test_rows_of_the_cache_follow_their_beams(seed, count, beams):
    rng = np.random.default_rng(seed)
    jobs = [job(num_beams=beams, max_new_tokens=8, suppress_tokens=(0,)) for _ in range(count)]
    lane, cache = lane_of(*jobs), KVCache(CacheSpec(1, 1, 1), count * beams, 10)
    array = cache.view(0, count * beams)["0.key"][:, 0, :, 0]
    for step in range(8):
        array[:, step] = lane.last  # as the graph writes what it is given
        moves = lane.advance(scores(rng.standard_normal((count * beams, V)), lane.top))
        if moves is not None:
            cache.copy_many(*moves)
            assert not set(moves[0].tolist()) & set(moves[1].tolist())
        assert (array[:, 0] == 8).all()
        for place in range(count):
            held = array[place * beams + lane._rows.of(place)]
            tokens = lane._search.tokens[place]
            assert (held[:, 1 : step + 1] == tokens[:, :step]).all()
            assert (
                lane.last.reshape(count, -1)[place, lane._rows.of(place)] == tokens[:, step]
            ).all()


def test_beams_that_change_places_are_not_copied():
    one = job(num_beams=2, max_new_tokens=8, suppress_tokens=(0,))
    lane = lane_of(one)
    lane.advance(scores([[0, 5, 4.9, 0, 0, 0, 0, 0, 0]] * 2, lane.top))
    assert lane._search.tokens[0, :, :1].tolist() == [[1], [2]]
    # Both go on, the second ahead of the first.
    moves = lane.advance(
        scores([[0, 0, 0, 1, 0, 0, 0, 0, 0], [0, 0, 0, 0, 9, 0, 0, 0, 0]], lane.top)
    )
    assert lane._search.tokens[0, :, :2].tolist() == [[2, 4], [1, 3]]
    assert moves is None and lane._rows.of(0).tolist() == [1, 0]
    assert lane.last.tolist() == [3, 4]


@settings(max_examples=60)
@given(st.data())
def test_many_rows_are_copied_as_if_at_once(data):
    cache = KVCache(CacheSpec(2, 2, 3), 6, 8)
    for i, array in enumerate(cache.view(0, 6).values()):
        array[:] = np.arange(array.size).reshape(array.shape) + 1000 * i
    before = {name: array.copy() for name, array in cache.view(0, 6).items()}
    targets = data.draw(st.lists(st.integers(0, 5), unique=True, min_size=1))
    moves = [
        (data.draw(st.integers(0, 5)), target, *sorted(data.draw(st.tuples(times, times))))
        for target in targets
    ]
    cache.copy_many(*np.array(moves).T)
    for name, array in cache.view(0, 6).items():
        wanted = before[name].copy()
        for source, target, start, stop in moves:
            wanted[target, :, start:stop] = before[name][source, :, start:stop]
        assert (array == wanted).all()


def test_the_first_token_of_each_search_goes_to_all_its_rows():
    cache = KVCache(CacheSpec(2, 1, 1), 9, 4)
    for array in cache.view(0, 9).values():
        array[:, 0, :, 0] = 10 * np.arange(9)[:, None] + np.arange(4)
    cache.spread(2, 3, 2)
    for array in cache.view(0, 9).values():
        assert array[:, 0, 0, 0].tolist() == [0, 10, 20, 20, 30, 30, 40, 40, 80]
        assert array[:, 0, 1, 0].tolist() == [10 * row + 1 for row in range(9)]


times = st.integers(0, 8)


@pytest.mark.parametrize(
    "options", [{"stop": "x"}, {"logprobs": 1}, {"prompt_lookup": 2}, {"regex": "a"}]
)
def test_options_of_decoders_alone_are_refused(options):
    with pytest.raises(InputError, match="encoder-decoder"):
        job(**options)


def test_a_job_whose_rules_leave_no_token_fails_alone():
    every = tuple((index,) for index in range(V))
    asked = {"num_beams": 2, "max_new_tokens": 6, "suppress_tokens": (0,)}
    jobs = [
        job(no_repeat_ngram_size=1, bad_words_ids=words, **asked)
        for words in (every[1:2] + every[4:], every[1:2])
    ]
    lane = lane_of(*jobs)
    rng = np.random.default_rng(0)
    while live := [place for place, each in enumerate(lane.jobs) if not each.has_ended]:
        lane.keep(live)
        lane.advance(scores(rng.standard_normal((2 * len(live), V)), lane.top))
    assert isinstance(jobs[0].error, InputError) and "no token" in str(jobs[0].error)
    (found,) = jobs[1].results
    assert len(found.token_ids) == 6
