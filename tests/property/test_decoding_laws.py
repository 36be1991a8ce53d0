"""Laws of decoding: what a rule may never do, whatever the row, the text or the tokens."""

from functools import cache

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from lmonnx.runtime.generate.beam import BeamSearch
from lmonnx.runtime.generate.detokenizer import Detokenizer, byte_fallback_ids
from lmonnx.runtime.generate.logprobs import likeliest, log_softmax, token_logprob
from lmonnx.runtime.generate.params import SamplingParams
from lmonnx.runtime.generate.rules import Rules
from lmonnx.runtime.generate.sampling import (
    keep_min_p,
    keep_top_k,
    keep_top_p,
    keep_typical,
    sample,
    warp,
)
from lmonnx.runtime.generate.stopping import Stopping
from lmonnx.runtime.numerics import softmax
from lmonnx.runtime.tokenizer import clean_up_spaces
from tests import tiny_decoding

V = 24
values = st.floats(-50, 50, width=32) | st.sampled_from([0.0, 1.0, -3.0, -np.inf])
rows = arrays(np.float32, st.integers(1, 300), elements=values).filter(
    lambda row: row.max() > -np.inf
)
shares = st.floats(0.01, 0.99)
tokens = st.lists(st.integers(0, V - 1), max_size=40)
WARPERS = {
    "top-k": lambda row, share: keep_top_k(row, 1 + int(share * len(row))),
    "top-p": keep_top_p,
    "min-p": keep_min_p,
    "typical": keep_typical,
}


@pytest.mark.parametrize("name", WARPERS)
@given(row=rows, share=shares)
def test_a_warper_only_excludes_and_leaves_a_token(name, row, share):
    before = row.copy()
    found = WARPERS[name](row, share)
    np.testing.assert_array_equal(row, before)
    kept = found > -np.inf
    assert kept.any() and (found[kept] == row[kept]).all()


@pytest.mark.parametrize("name", ["top-k", "top-p", "min-p"])
@given(row=rows, share=shares)
def test_a_warper_keeps_the_likeliest_and_none_before_a_likelier(name, row, share):
    kept = WARPERS[name](row, share) > -np.inf
    assert kept[row.argmax()] and row[kept].min() >= row[~kept].max(initial=-np.inf)


@given(rows, shares)
def test_top_p_reaches_p_with_no_token_too_many(row, top_p):
    kept = np.sort(softmax(row.astype(np.float64))[keep_top_p(row, top_p) > -np.inf])
    assert kept.sum() >= top_p - 1e-5 and kept[1:].sum() <= top_p + 1e-5


@given(rows, st.integers(1, 300))
def test_top_k_keeps_k_and_what_ties_with_the_last(row, k):
    kept = keep_top_k(row, k)
    last = np.sort(row)[::-1][min(k, len(row)) - 1]
    np.testing.assert_array_equal(kept > -np.inf, (row >= last) & (row > -np.inf))


@given(rows, st.builds(
    SamplingParams, temperature=st.floats(0.05, 5), top_k=st.integers(0, 50), top_p=shares,
    min_p=shares, typical_p=shares,
), st.integers(0, 2**32))  # fmt: skip
def test_what_is_drawn_was_kept_and_the_seed_decides(row, params, seed):
    drawn = [sample(row, params, np.random.default_rng(seed)) for _ in range(2)]
    assert drawn[0] == drawn[1] and warp(row, params)[drawn[0]] > -np.inf


@given(rows, st.integers(0, 20))
def test_log_probabilities_are_ordered_and_sum_to_one(row, k):
    found = token_logprob(row, int(row.argmax()), k)
    exact = [value for _, value in found.top]
    assert found.rank == 1 and exact == sorted(exact, reverse=True)
    assert np.exp(log_softmax(row)).sum() == pytest.approx(1, abs=1e-4)
    assert likeliest(row, k) == np.argsort(-row, kind="stable")[:k].tolist()


options = st.builds(
    SamplingParams,
    max_new_tokens=st.just(30),
    min_new_tokens=st.integers(0, 5),
    repetition_penalty=st.sampled_from([1.0, 0.5, 1.5]),
    presence_penalty=st.sampled_from([0.0, 1.0]),
    frequency_penalty=st.sampled_from([0.0, -0.5]),
    no_repeat_ngram_size=st.integers(0, 4),
    bad_words_ids=st.lists(st.lists(st.integers(0, V - 1), min_size=1, max_size=3), max_size=3),
    suppress_tokens=st.lists(st.integers(0, V - 1), max_size=2),
    forced_ids=st.lists(st.integers(0, V - 1), max_size=2),
)


def rules_of(params, prompt):
    return Rules(params, prompt=prompt, stop_ids=[0], vocabulary=V, encode=lambda _: [])


@given(options, tokens, st.lists(tokens, min_size=1, max_size=8))
def test_rules_give_the_same_whatever_they_saw_before(params, prompt, texts):
    row = np.linspace(-2, 2, V, dtype=np.float32)
    used = rules_of(params, prompt)
    for text in texts:
        expected = rules_of(params, prompt).apply(row, text)
        np.testing.assert_array_equal(used.apply(row, text), expected)


@given(tokens, tokens, st.integers(1, 5))
def test_no_ngram_stands_twice_where_none_may(prompt, text, size):
    row = rules_of(SamplingParams(no_repeat_ngram_size=size), prompt).apply(
        np.zeros(V, np.float32), text
    )
    whole = [*prompt, *text]
    seen = {tuple(whole[i : i + size]) for i in range(len(whole) - size + 1)}
    for token in range(V):
        again = tuple([*whole, token][len(whole) + 1 - size :]) in seen
        assert np.isneginf(row[token]) == (again and len(whole) + 1 >= size)


letters = st.text("abc ", max_size=6)


@given(st.lists(letters, max_size=12), st.lists(letters.filter(bool), max_size=4))
def test_what_is_shown_does_not_depend_on_how_tokens_cut_the_text(pieces, stops):
    params = SamplingParams(stop=stops)

    def shown(parts):
        stopping, text = Stopping(params, stop_ids=[]), ""
        for part in parts:
            text += stopping.push(1, part)
            if stopping.finish_reason:
                break
        return text + stopping.finish(), stopping.finish_reason

    text, reason = shown(pieces)
    assert (text, reason) == shown(["".join(pieces)]) or not pieces
    assert not any(stop in text for stop in stops)
    assert reason == ("stop" if any(stop in "".join(pieces) for stop in stops) else None)
    assert "".join(pieces).startswith(text)


@cache
def tokenizer(name):
    return getattr(tiny_decoding, name)()


@settings(max_examples=200)
@given(st.sampled_from(["byte_level", "byte_fallback", "metaspace"]), st.data())
def test_pieces_join_to_the_decoded_text_for_any_tokens(name, data):
    made = tokenizer(name)
    ids = st.lists(st.integers(0, made.get_vocab_size() - 1), max_size=60)
    prefix, rest = data.draw(ids), data.draw(ids)
    byte_ids = byte_fallback_ids(made.token_to_id)
    detokenizer = Detokenizer(made.decode, prefix, byte_ids=byte_ids)
    pieces = [detokenizer.push(token) for token in rest]
    before = made.decode(prefix).rstrip("\ufffd")
    assert "".join(pieces) + detokenizer.flush() == made.decode([*prefix, *rest])[len(before) :]


@settings(max_examples=300)
@given(st.lists(st.text("abcn't.,!? sve\n中", max_size=9)))
def test_cleaned_pieces_join_to_the_cleaned_text(pieces):
    detokenizer = Detokenizer(lambda ids: "".join(pieces[i] for i in ids), cleans=True)
    shown = [detokenizer.push(i) for i in range(len(pieces))]
    assert "".join(shown) + detokenizer.flush() == clean_up_spaces("".join(pieces))


@settings(max_examples=60)
@given(st.integers(0, 10**6), st.sampled_from([0.0, 1.0, 2.0]), st.integers(1, 3))
def test_enough_beams_find_the_best_of_all_sequences(seed, penalty, length):
    rng = np.random.default_rng(seed)
    width, beams = 3, 27
    tables = {}

    def row(text):
        if text not in tables:
            tables[text] = log_softmax(rng.standard_normal(width).astype(np.float32) * 2)
        return tables[text]

    params = SamplingParams(
        num_beams=beams, max_new_tokens=length, length_penalty=penalty, early_stopping="never"
    )
    search = BeamSearch(params, stop_ids=[0], vocabulary=width)
    while not search.is_done:
        search.advance(np.stack([row(text) for text in search.sequences]))

    def ends(text, total):
        if text and (text[-1] == 0 or len(text) == length):
            return [(total / len(text) ** penalty, text)]
        return [e for t in range(width) for e in ends((*text, t), total + row(text)[t])]

    (found, score), *_ = search.best()
    best = max(ends((), 0.0))
    assume(sorted(ends((), 0.0))[-1][0] > sorted(ends((), 0.0))[-2][0] + 1e-4)
    assert tuple(found) == best[1] and score == pytest.approx(float(best[0]), rel=1e-4)


@given(st.integers(0, 10**6), st.integers(2, 4))
def test_the_best_candidates_are_all_that_a_search_needs(seed, beams):
    rng = np.random.default_rng(seed)
    params = SamplingParams(num_beams=beams, n=beams, max_new_tokens=6)
    whole, short = (BeamSearch(params, stop_ids=[0, 5], vocabulary=V) for _ in range(2))
    while not whole.is_done:
        block = log_softmax(rng.standard_normal((beams, V)).astype(np.float32))
        ids = np.argsort(-block, axis=1, kind="stable")[:, : short.candidates]
        step, other = (
            whole.advance(block),
            short.advance_top(np.take_along_axis(block, ids, 1), ids),
        )
        np.testing.assert_array_equal(step.parents, other.parents)
        np.testing.assert_array_equal(step.tokens, other.tokens)
    assert short.is_done and whole.best() == short.best() and len(whole.best()) == beams
