"""Requests that run together: the same answers as alone, no slot lost, no thread left waiting."""

import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import pytest

from lmonnx.errors import InputError, LmonnxError
from lmonnx.runtime.generate import scheduler
from lmonnx.runtime.generate.params import SamplingParams
from lmonnx.runtime.generate.sampled import Sampled
from tests.unit.runtime.generate import random_requests

PROMPTS = ["a", "the dog saw a ball", "the dog saw a girl", "Ünïcödé 😀", "x" * 60, "", "a b a b a"]


def ids(completions):
    return [completion.token_ids for completion in completions]


def greedy(count=24, **options):
    return SamplingParams(max_new_tokens=count, ignore_eos=True, **options)


@pytest.fixture
def watched(load, monkeypatch):
    """A model, and how many tokens each piece of a prompt had that it read."""
    model, sizes = load(), []
    decoder = model._engine._decoder
    extend = decoder.extend
    monkeypatch.setattr(
        decoder, "extend", lambda *a, **k: sizes.append(len(a[1])) or extend(*a, **k)
    )
    return model, sizes


def is_empty(model):
    """Whether nothing runs, waits or holds a slot."""
    model([[1]], greedy(1))  # a step lets go of what was cancelled
    engine = model._engine
    lines = (engine._live, engine._scheduler.waiting, engine._scheduler.reading, engine._arrived)
    return not any(lines) and engine._slots.live == 0 and engine._slots.idle == model.slots


def test_a_greedy_answer_is_the_same_in_any_company(tiny, solo):
    alone = [ids(solo([prompt], greedy()))[0] for prompt in PROMPTS]
    assert ids(tiny(PROMPTS, greedy())) == alone
    assert ids(tiny(PROMPTS[::-1], greedy())) == alone[::-1]


def test_more_requests_than_slots_are_all_answered_in_order(load, solo):
    prompts = [f"{i} times {i}" for i in range(30)]
    assert ids(load(slots=3)(prompts, greedy(9))) == ids(solo(prompts, greedy(9)))


def test_requests_join_and_leave_while_others_run(tiny, solo):
    params = [greedy(3 + 7 * i % 23) for i in range(12)]
    with ThreadPoolExecutor(12) as pool:
        found = list(pool.map(lambda p: ids(tiny(["the dog"], p))[0], params))
    whole = ids(solo(["the dog"], greedy(30)))[0]
    assert found == [whole[: p.max_new_tokens] for p in params]


def test_a_prompt_read_in_pieces_gives_what_one_read_at_once_gives(load, monkeypatch):
    prompt = "the little girl saw a big red ball in the park"
    whole = ids(load()([prompt], greedy()))
    for size in (1, 3, 16):
        monkeypatch.setattr(scheduler, "ALONE", size)
        assert ids(load()([prompt], greedy())) == whole


def test_what_a_request_left_in_the_cache_changes_nothing_but_the_work(load, solo):
    model = load(slots=2)
    for prompt in ("the dog saw a ball", "the dog saw a girl", "the dog", "the dog saw a ball and"):
        assert ids(model([prompt], greedy())) == ids(solo([prompt], greedy()))


def test_a_known_beginning_is_not_read_again(watched):
    model, sizes = watched
    first = model(["once there was a dog"], greedy(4))[0]
    model(["once there was a dog" + "!" * 10], greedy(4))
    assert sizes == [first.prompt_tokens, 10]
    model(["once there was a cat", "once there was a cat!!"], greedy(4))
    assert sizes[2:] == [3, 5]  # "cat" and "cat!!": what both begin with is copied


def test_samples_of_a_prompt_share_its_reading_and_differ(watched):
    model, sizes = watched
    found = ids(model(["once there was a dog"], greedy(9, temperature=1.0, seed=3, n=4)))
    assert sizes == [21] and len(set(found)) == 4


@pytest.mark.parametrize(
    "options", [{}, {"num_beams": 3}, {"logprobs": 2, "repetition_penalty": 2}]
)
def test_what_comes_after_a_known_prompt_is_known(watched, load, options):
    model, sizes = watched
    prompts = ["the dog saw a ball", "the dog saw a girl"]
    wanted = load()(prompts, greedy(9, **options))
    for _ in range(2):
        assert model(prompts, greedy(9, **options)) == wanted
        assert model(prompts[::-1], greedy(9, **options)) == wanted[::-1]
    assert sizes == [19, 19]  # once


def test_a_known_prompt_is_read_again_for_its_own_logprobs(watched, solo):
    model, sizes = watched
    params = greedy(3, prompt_logprobs=1)
    wanted = solo(["the dog"], params)
    model(["the dog"], greedy(3))
    assert model(["the dog"], params) == wanted and sizes == [8, 8]


def test_what_was_decoded_is_read_again_as_a_prompt(watched):
    model, sizes = watched
    first = model(["once there was a dog"], greedy(6))[0]
    prompt = [*model.tokenizer.prompt("once there was a dog"), *first.token_ids, 9]
    model([prompt], greedy(2))
    assert sizes == [first.prompt_tokens, len(first.token_ids) + 1]


def test_no_piece_of_a_prompt_is_one_token(watched, monkeypatch):
    monkeypatch.setattr("lmonnx.runtime.generate.scheduler.ALONE", 4)
    model, sizes = watched
    model([[7] * 9], greedy(2))
    assert sizes == [4, 5]


def test_a_seed_gives_the_same_samples_in_any_company(tiny, solo):
    params = greedy(12, temperature=1.0, seed=7)
    assert ids(tiny(PROMPTS, params)) == [ids(solo([prompt], params))[0] for prompt in PROMPTS]


def test_the_first_of_several_samples_is_that_of_one(tiny):
    one, several = greedy(12, temperature=1.0, seed=7), greedy(12, temperature=1.0, seed=7, n=3)
    assert ids(tiny(["dog"], one))[0] == ids(tiny(["dog"], several))[0]


def test_beams_in_company_are_those_alone(tiny, load):
    params = greedy(10, num_beams=3, n=2)
    alone = [c for prompt in PROMPTS for c in load(slots=3)([prompt], params)]
    together = tiny(PROMPTS, params)
    assert ids(together) == ids(alone)
    assert [c.score for c in together] == pytest.approx([c.score for c in alone], abs=1e-5)


def test_a_prompt_that_waits_does_not_stop_those_that_are_answered(load, monkeypatch):
    monkeypatch.setattr(scheduler, "IN_COMPANY", 4)
    model = load(slots=2)
    stream = model.stream("a", greedy(20))
    next(stream)
    engine, seen = model._engine, []
    slow = Sampled(model._ids("b" * 100), greedy(5), model._voice)
    engine.submit(slow)
    for _ in range(10):
        engine.step()
        seen.append(len(engine._scheduler.reading))
    assert len(engine._live[0].rows[0]) >= 10 and seen[0] == 1  # ten tokens, while "b…" is read
    engine.wait(slow)
    assert len(slow.completion().token_ids) == 5


def test_prompts_that_come_together_are_read_in_one_step(load):
    model = load(slots=4)
    engine = model._engine
    jobs = [Sampled(model._ids(text * 3), greedy(5), model._voice) for text in ("a", "b", "c", "d")]
    for job in jobs:
        engine.submit(job)
    engine.step()
    assert len(engine._live) == 4 and not engine._scheduler.reading
    for job in jobs:
        engine.wait(job)
    assert [job.completion().token_ids for job in jobs] == [
        ids(model([text * 3], greedy(5)))[0] for text in ("a", "b", "c", "d")
    ]


def test_a_closed_stream_gives_its_slot_back(load):
    model = load(slots=1)
    stream = model.stream("the dog", greedy(100))
    assert len(list(islice(stream, 3))) == 3
    stream.close()
    assert ids(model(["a"], greedy(3))) and is_empty(model)


def test_a_stream_that_is_never_read_blocks_nobody(load):
    model = load(slots=2)
    left, unread = model.stream("the dog", greedy(20)), model.stream("a dog", greedy(20))
    next(left)
    assert ids(model(["a", "b", "c"], greedy(3)))
    del left, unread
    assert is_empty(model)


def test_a_stream_joins_to_the_completion(tiny):
    params = SamplingParams(max_new_tokens=50, stop=(".",))
    for prompt in PROMPTS:
        chunks, whole = list(tiny.stream(prompt, params)), tiny([prompt], params)[0]
        assert "".join(chunk.text for chunk in chunks) == whole.text
        assert tuple(i for chunk in chunks for i in chunk.token_ids) == whole.token_ids
        assert [c.finish_reason for c in chunks[:-1]] == [None] * (len(chunks) - 1)
        assert chunks[-1].finish_reason == whole.finish_reason


class Faulty(Sampled):
    def take(self, logits, slots, drafted=()):
        raise InputError("no such token")


def test_a_request_that_fails_leaves_the_others_alone(load):
    model = load()
    stream = model.stream("the dog", greedy(8))
    bad = Faulty([1, 2, 3], greedy(8), model._voice)
    model._engine.submit(bad)
    with pytest.raises(InputError, match="no such token"):
        model._engine.wait(bad)
    assert sum(1 for _ in stream) == 8 and is_empty(model)


def test_a_graph_that_fails_ends_every_request_with_the_error(load, monkeypatch):
    model = load()
    streams = [model.stream(prompt, greedy(8)) for prompt in "ab"]
    for stream in streams:
        next(stream)

    def fail(*arguments):
        raise InputError("the graph fails")

    with monkeypatch.context() as patch:
        patch.setattr(model._engine._decoder, "step", fail)
        with pytest.raises(InputError, match="the graph fails"):
            list(streams[0])
    with pytest.raises(InputError, match="the graph fails"):
        list(streams[1])
    assert ids(model(["a"], greedy(3))) and is_empty(model)


@pytest.mark.parametrize("case", ["copy bb", "copy_many b", "copy_many c"])
def test_no_request_is_lost_where_a_copy_fails(load, monkeypatch, case):
    model, (name, prompts) = load(), case.split()
    engine, jobs = model._engine, [model._jobs(prompt, greedy(3))[0] for prompt in prompts]
    _ = [model([known], greedy(1)) for known in "ba"]  # one after the other
    engine._arrived += jobs
    monkeypatch.setattr(engine._slots._cache, name, lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        engine.step()
    assert set(engine._forget()) == set(jobs)


def test_an_interrupt_reaches_its_caller_and_the_engine_goes_on(load, monkeypatch):
    model = load()
    other = model.stream("a dog", greedy(8))
    next(other)

    def interrupt(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(model._engine._decoder, "step", interrupt)
        with pytest.raises(KeyboardInterrupt):
            model(["the dog"], greedy(8))
    with pytest.raises(LmonnxError, match="interrupted in another request"):
        list(other)
    assert ids(model(["a"], greedy(3))) and is_empty(model)


def test_closing_ends_waiting_threads_with_an_error(load):
    model = load(slots=1)
    started, errors = threading.Event(), []

    def ask():
        try:
            for _ in model.stream("the dog", greedy(140)):
                started.set()
        except InputError as error:
            errors.append(str(error))

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    started.wait(10)
    model.close()
    for thread in threads:
        thread.join(10)
    assert not any(thread.is_alive() for thread in threads)
    assert all("closed" in error for error in errors)
    with pytest.raises(InputError, match="closed"):
        model("a")
    with pytest.raises(InputError, match="closed"):
        model.stream("a")


def test_random_requests_are_answered_as_alone_and_leave_nothing(load):
    model, one = load(slots=5), load(slots=4)
    asked = random_requests.requests(300, model.context, seed=1)
    found = random_requests.run(model, asked)
    alone = [random_requests.answer(one, request) for request in asked]
    assert random_requests.differences(asked, found, alone) == []
    assert is_empty(model) and is_empty(one)
