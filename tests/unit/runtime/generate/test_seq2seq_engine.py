"""The engine of encoder-decoders: the same answers as alone, none lost, and what it refuses."""

from __future__ import annotations

import random
import threading
from contextlib import suppress
from dataclasses import replace

import pytest

import lmonnx
from lmonnx.bundle.bundle import Bundle
from lmonnx.errors import InputError
from lmonnx.runtime.generate.capacity import Capacity
from lmonnx.runtime.generate.params import SamplingParams
from lmonnx.runtime.generate.seq2seq_engines import Seq2SeqEngines
from lmonnx.runtime.generate.source_job import Manner, SourceJob
from lmonnx.runtime.session import SessionConfig
from tests.unit.runtime.generate import random_requests
from tests.unit.runtime.generate.random_requests import BEAMS, CUT, GREEDY, SAMPLED, WRONG, Request
from tests.unit.runtime.generate.tiny_seq2seq import EOS, FOLDER, POSITIONS, START

SOURCES = [[4 + (7 * i + j * j) % 256 for j in range(1 + i * 5 % 19)] + [EOS] for i in range(40)]


@pytest.fixture
def load():
    """Give a function that makes engines of the frozen bundle; what it made is closed."""
    made = []

    def make(slots=8, **config):
        config = SessionConfig(**{"threads": 1} | config)
        bundle = Bundle.open(FOLDER, verify=False)
        made.append(Seq2SeqEngines(bundle, config, capacity=Capacity(slots=slots)))
        return made[-1]

    yield make
    for engines in made:
        engines.close()


def params(count=12, **options):
    return SamplingParams(max_new_tokens=count, **options)


def run(engines, sources, asked):
    """Return (tokens, reason) of each source's answers."""
    found = engines.run(sources, asked, start_id=START)
    return [[(each.token_ids, each.finish_reason) for each in answers] for answers in found]


def stream(engines, source, asked):
    return engines.stream(source, asked, start_id=START)


def is_empty(engine):
    """Whether nothing runs or waits, once a step has let go of what was cancelled."""
    engine.step()
    return not (
        engine._lane or len(engine._model.sources.held) or engine._waiting or engine._arrived
    )


KINDS = (
    {},
    {"num_beams": 4, "n": 3},
    {"num_beams": 2, "stop_ids": (40, 41)},
    {"no_repeat_ngram_size": 1, "num_beams": 3},
    {"temperature": 1.0, "seed": 5, "n": 2},
    {"suppress_tokens": (EOS, 100), "forced_ids": (9,)},
)


@pytest.mark.parametrize("options", KINDS, ids=str)
def test_answers_are_the_same_in_any_company_and_order(load, options):
    asked, small, large = params(**options), load(slots=4), load(slots=128)
    alone = [run(large, [source], asked)[0] for source in SOURCES]
    assert run(small, SOURCES, asked) == run(large, SOURCES, asked) == alone
    assert run(small, SOURCES[::-1], asked) == alone[::-1]
    assert is_empty(small._whole) and is_empty(large._whole)


@pytest.mark.parametrize("options", KINDS, ids=str)
def test_a_thread_a_batch_gives_the_same_tokens(load, options):
    whole, single = load(threads=2, thread_per_batch=False), load(threads=2, thread_per_batch=True)
    asked = params(**options)
    assert run(single, SOURCES, asked) == run(whole, SOURCES, asked)
    assert len(single._singles) == 2 and not whole._singles
    assert run(single, SOURCES[:2], asked) == run(whole, SOURCES[:2], asked)
    assert all(is_empty(engine) for engine in (single._whole, *single._singles))


@pytest.mark.parametrize("options", [{}, {"repetition_penalty": 1.2}])
def test_an_answer_may_end_at_its_first_token(load, options):
    engines = load(slots=4)
    firsts = [tokens[0] for ((tokens, _),) in run(engines, SOURCES, params(1, **options))]
    ends = tuple(set(firsts[::3]))
    asked = params(stop_ids=ends, **options)
    whole = run(engines, SOURCES, asked)
    for first, ((tokens, reason),) in zip(firsts, whole, strict=True):
        assert tokens[0] == first and not set(tokens[:-1]) & {EOS, *ends}
        assert len(tokens) == 1 if first in ends else len(tokens) > 1 or first == EOS
        assert reason == ("stop" if tokens[-1] in {EOS, *ends} else "length")
    for source, answer in zip(SOURCES[:6], whole, strict=False):
        assert tuple(stream(engines, source, asked)) == answer[0][0]


@pytest.mark.parametrize("beams", [1, 3])
def test_one_token_may_be_all_that_is_asked_for(load, beams):
    engines = load(slots=6)
    options = {"num_beams": beams, "n": beams}
    for answers in run(engines, SOURCES, params(1, **options)):
        assert len(answers) == beams and all(len(tokens) == 1 for tokens, _ in answers)
        assert len({tokens for tokens, _ in answers}) == beams
    forced = run(engines, SOURCES, params(1, forced_eos_token_id=EOS, num_beams=beams))
    assert forced == [[((EOS,), "stop")]] * len(SOURCES)


@pytest.mark.parametrize(
    ("source", "asked", "message"),
    [
        ([], params(), "no tokens"),
        ([5] * (POSITIONS + 1), params(), "97 tokens, the model reads 96; shorten"),
        ([5], params(96), "max_new_tokens is 96, the model has room for 95"),
        ([5], params(num_beams=9), "num_beams is 9, the cache has 8 slots"),
        ([5], params(stop=("x",)), "stop means nothing"),
        ([5], params(bad_words=("x",)), "give their ids"),
        ([5], params(suppress_tokens=(300,)), "the model's ids go to 262"),
        ([5], params(suppress_tokens=tuple(range(263))), "no token"),
    ],
)
def test_what_cannot_be_answered_is_refused_and_the_others_go_on(load, source, asked, message):
    engines = load()
    with pytest.raises(InputError, match=message):
        run(engines, [SOURCES[0], source, SOURCES[1]], asked)
    with pytest.raises(InputError, match=message if asked.num_beams == 1 else "one answer"):
        list(stream(engines, source, asked))
    assert is_empty(engines._whole)
    longest = params(95, suppress_tokens=(EOS,))
    assert len(run(engines, [[5] * POSITIONS], longest)[0][0][0]) == 95


def test_a_stream_gives_what_a_call_gives_and_closing_it_ends_the_request(load):
    engines = load(slots=2)
    never = [stream(engines, source, params()) for source in SOURCES]
    for source in SOURCES[:8]:
        assert tuple(stream(engines, source, params())) == run(engines, [source], params())[0][0][0]
    begun = [stream(engines, source, params(90, ignore_eos=True)) for source in SOURCES[:5]]
    for each in begun:  # more than there are slots
        next(each)
        each.close()
    assert run(engines, SOURCES[:3], params()) == [
        run(engines, [source], params())[0] for source in SOURCES[:3]
    ]
    assert is_empty(engines._whole) and never


@pytest.mark.parametrize("asked", [params(n=2, temperature=1.0), params(num_beams=2)])
def test_a_stream_is_of_one_answer(load, asked):
    with pytest.raises(InputError, match="one answer"):
        stream(load(), [5], asked)


def test_a_closed_model_answers_nobody_and_leaves_nobody_waiting(load):
    engines, found = load(slots=2), []
    asked = params(95, ignore_eos=True)

    def wait(source):
        try:
            run(engines, [source] * 8, asked)
        except InputError as error:
            found.append(str(error))

    running = stream(engines, SOURCES[0], asked)
    next(running)
    threads = [threading.Thread(target=wait, args=(source,)) for source in SOURCES[:3]]
    for thread in threads:
        thread.start()
    engines.close()
    for thread in threads:
        thread.join(10)
    assert len(found) == 3 and all("closed" in message for message in found)
    for ask in (lambda: list(running), lambda: run(engines, [[5]], asked)):
        with pytest.raises(InputError, match="closed"):
            ask()
    with pytest.raises(InputError, match="closed"):
        stream(engines, [5], asked)


@pytest.mark.parametrize("beams", [1, 2])
@pytest.mark.parametrize(
    ("part", "steps"), [("step", 0), ("step", 1), ("step", 3), ("read", 0), ("read", 1)]
)
def test_a_graph_that_fails_ends_every_request_with_the_error(
    load, monkeypatch, beams, steps, part
):
    """Wherever it does: a job that nobody knows of any more would be waited for for ever."""
    engines, asked = load(slots=4), params(8, num_beams=beams)
    whole, real, left = engines._whole, {}, iter([True] * steps)
    manner = Manner(asked, start_id=START, stop_ids=(), vocabulary=263)
    jobs = [SourceJob(source, manner) for source in SOURCES[:6]]

    def fail(*arguments, **options):
        if next(left, False):
            return real[part](*arguments, **options)
        raise InputError("the graph fails")

    real[part] = getattr(whole._model, part)
    for job in jobs:
        whole.submit(job)
    with monkeypatch.context() as patch:
        patch.setattr(whole._model, part, fail)
        for job in jobs:
            waiting = threading.Thread(target=_await, args=(whole, job), daemon=True)
            waiting.start()
            waiting.join(20)
            assert not waiting.is_alive()
    assert any(isinstance(job.error, InputError) for job in jobs)
    assert all(job.has_ended for job in jobs)
    assert is_empty(whole) and run(engines, SOURCES[:2], asked)


def _await(engine, job):
    with suppress(InputError):
        engine.wait(job)


def test_kinds_take_turns_in_the_order_in_which_they_came(load):
    """A request of another kind is not overtaken by those behind it, however many they are."""
    engines, order = load(slots=2), []
    kinds = [params(30, ignore_eos=True), params(3, num_beams=2)]
    whole = engines._whole
    manners = [Manner(each, start_id=START, stop_ids=(EOS,), vocabulary=263) for each in kinds]
    jobs = [SourceJob(SOURCES[i], manners[i == 3]) for i in range(12)]
    for job in jobs:
        whole.submit(job)
    while whole.step():
        order += [job for job in jobs if job.has_ended and job not in order]
    assert set(order) | {job for job in jobs if job.has_ended} == set(jobs)
    assert order.index(jobs[3]) == 3


# Many requests at once ---------------------------------------------------------------------------


def requests(count: int, *, seed: int) -> list[Request]:
    dice = random.Random(seed)
    return [one(dice) for _ in range(count)]


def one(dice: random.Random) -> Request:
    kind = dice.choice((GREEDY,) * 3 + (SAMPLED, BEAMS, BEAMS, CUT, CUT, WRONG))
    text = random_requests.sentence(dice, dice.randint(1, 12))[: POSITIONS - 6]
    options = {"max_new_tokens": dice.choice((1, 2, 5, 9, 14, 30))}
    if dice.random() < 0.3:
        options["stop_ids"] = tuple(4 + ord(letter) for letter in dice.sample("aeiounst", 2))
    if dice.random() < 0.2:
        options |= dice.choice(
            (
                {"repetition_penalty": 1.2},
                {"no_repeat_ngram_size": 2},
                {"bad_words_ids": [[101], [102, 103]]},
                {"suppress_tokens": (101, 105)},
                {"forced_ids": (120,), "forced_eos_token_id": EOS},
            )
        )
    if kind == SAMPLED:
        options |= {"temperature": 1.0, "top_p": 0.9, "seed": dice.randint(0, 99)}
        options["n"] = dice.randint(1, 3)
    if kind == BEAMS:
        beams = dice.randint(2, 6)
        options |= {"num_beams": beams, "n": dice.randint(1, beams)}
        options["early_stopping"] = dice.choice((False, True, "never"))
        options["length_penalty"] = dice.choice((0.0, 1.0, 2.0, -1.0))
        options["renormalize_logits"] = dice.random() < 0.5
    if kind == WRONG:
        wrong = ({"max_new_tokens": 96}, {"num_beams": 7}, {"temperature": -1.0}, {"stop": "x"})
        options |= dice.choice(wrong)
    return Request(kind, text, options, dice.randint(0, 5))


@pytest.mark.parametrize("slots", [6, 13])
def test_random_requests_are_answered_as_alone_and_leave_nothing(slots):
    asked = requests(150, seed=slots)
    with lmonnx.load(FOLDER, threads=1, slots=slots) as model:
        wrong = [replace(each, kind=GREEDY) for each in asked if each.options.get("num_beams") == 7]
        if slots > 6:
            asked = [each for each in asked if each.options.get("num_beams") != 7]
            assert random_requests.REFUSED not in random_requests.run(model, wrong)
        found = random_requests.run(model, asked)
        alone = [random_requests.answer(model, request) for request in asked]
        assert random_requests.differences(asked, found, alone) == []
        assert is_empty(model._engines._whole)
