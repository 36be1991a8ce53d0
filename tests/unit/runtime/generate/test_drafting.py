"""Guesses: they change no answer, and are made where they pay."""

import shutil
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmonnx.bundle.bundle import Bundle
from lmonnx.errors import InputError
from lmonnx.runtime.generate.drafting import PROBE, Drafter, Pace
from lmonnx.runtime.generate.lookup import PromptLookup
from lmonnx.runtime.generate.params import SamplingParams
from lmonnx.runtime.pipelines.text_generation import TextGenerator

PROMPTS = ["a b c d a b c d a b", "the dog and the dog and the dog", "x", "aaaaaaaaaaaaaaaa"]
OPTIONS = [{}, {"temperature": 0.8, "seed": 5}, {"repetition_penalty": 1.3}, {"stop": ("\x1b",)}]


def ids(completions):
    return [completion.token_ids for completion in completions]


class Always(Drafter):
    """Guesses the same token, right or wrong, at every step."""

    def __init__(self, token):
        super().__init__(4)
        self.token = token

    def propose(self, tokens, limit):
        return [self.token] * min(3, limit)

    def guess(self, tokens, limit):
        raise AssertionError

    def judge(self, drafted, length):
        pass


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_prompt_lookup_changes_no_answer(solo, options):
    for prompt in PROMPTS:
        plain = SamplingParams(max_new_tokens=80, ignore_eos=True, **options)
        drafted = replace(plain, prompt_lookup=8)
        assert solo([prompt], plain) == solo([prompt], drafted)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_a_draft_model_changes_no_answer(load, tiny_path, solo, options):
    model = load(draft=tiny_path)
    for prompt in PROMPTS:
        params = SamplingParams(max_new_tokens=80, ignore_eos=True, **options)
        assert model([prompt], params) == solo([prompt], params)
    assert model(PROMPTS, SamplingParams(max_new_tokens=20)) == [
        solo([prompt], SamplingParams(max_new_tokens=20))[0] for prompt in PROMPTS
    ]


def test_wrong_guesses_change_no_answer(load, solo, monkeypatch):
    model = load()
    params = SamplingParams(max_new_tokens=60, ignore_eos=True)
    for token in (0, 97, 259):
        monkeypatch.setattr(model, "_drafter", lambda params, token=token: Always(token))
        assert model(["the dog"], params) == solo(["the dog"], params)


def test_right_guesses_need_fewer_calls(load, tiny_path, monkeypatch):
    model = load(draft=load())
    calls = []
    decoder = model._engine._decoder
    extend, step = decoder.extend, decoder.step
    monkeypatch.setattr(decoder, "extend", lambda *a, **k: calls.append(1) or extend(*a, **k))
    monkeypatch.setattr(decoder, "step", lambda *a: calls.append(0) or step(*a))
    monkeypatch.setattr(Pace, "size", lambda self: 4)
    model(["the dog"], SamplingParams(max_new_tokens=100, ignore_eos=True))
    assert len(calls) < 30


def test_a_draft_of_another_vocabulary_is_refused(load, tiny_path, tmp_path):
    copy = shutil.copytree(tiny_path, tmp_path / "other")
    text = (copy / "tokenizer.json").read_text()
    (copy / "tokenizer.json").write_text(text.replace("<|turn|>", "<|turm|>"))
    with pytest.raises(InputError, match="another vocabulary"):
        TextGenerator(Bundle.open(tiny_path), draft=Bundle.open(copy, verify=False))


@given(st.lists(st.integers(0, 3), max_size=40), st.integers(1, 9))
def test_a_lookup_gives_what_followed_the_last_tokens_before(tokens, limit):
    lookup = PromptLookup(16)
    for end in range(len(tokens)):  # as a completion grows
        lookup.guess(tokens[:end], limit)
    found = lookup.guess(tokens, limit)
    known = {tuple(tokens[i - 2 : i]) for i in range(2, len(tokens))}
    assert bool(found) == (len(tokens) > 2 and tuple(tokens[-2:]) in known)
    if found:
        assert len(found) == limit
        grown = [*tokens, *found]
        assert any(
            tokens[i - 2 : i] == tokens[-2:] and all(grown[i + j] == found[j] for j in range(limit))
            for i in range(2, len(tokens))
        )


class Clock:
    def __init__(self):
        self.time = 0.0

    def __call__(self):
        return self.time


def drive(right, slope, calls=300):
    """Return the tokens a second, over those of plain calls, at a share of right guesses."""
    clock = Clock()
    pace, length, carry = Pace(16, clock), 0, 0.0
    for _ in range(calls):
        pace.lap(length)
        size = pace.size()
        pace.begin(clock.time, size, length)
        clock.time += 1 + slope * size
        carry += right
        kept = size if right >= 1 else min(size, int(carry))
        carry -= int(carry)
        pace.learn(size, kept)
        length += 1 + kept
    return length / clock.time


def test_drafts_pay_where_guesses_are_right_and_cost_little_where_they_are_wrong():
    assert drive(right=1.0, slope=0.05) > 6
    assert drive(right=1.0, slope=0.5) > 1.5
    assert drive(right=0.0, slope=0.05) > 0.95
    assert drive(right=0.0, slope=1.0) > 0.9


def test_a_draft_is_tried_again_after_a_while():
    clock = Clock()
    pace = Pace(8, clock)
    for _ in range(40):
        pace.learn(8, 0)
    pace.learn(8, 1)
    sizes = []
    for length in range(PROBE + 2):
        sizes.append(pace.size())
        pace.begin(clock.time, sizes[-1], length)
    assert sizes.count(0) == PROBE + 1 and sizes[PROBE] > 0
