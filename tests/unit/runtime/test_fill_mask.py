"""Masks and what fills them, against transformers' frozen answers, and the laws of the answer."""

import json
from dataclasses import replace
from itertools import count, islice

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import lmonnx
from lmonnx.bundle.bundle import Bundle
from lmonnx.bundle.manifest import Side
from lmonnx.errors import BundleError, InputError
from lmonnx.runtime.batch import Batch
from lmonnx.runtime.pipelines import base, fill_mask
from lmonnx.runtime.pipelines.fill_mask import Fill, FillMasker, choose_tokens, highest_first
from tests.conftest import GOLDEN

CASES = json.loads((GOLDEN / "tiny-mlm.json").read_text(encoding="utf-8"))["cases"]
TEXTS = ["[MASK]", "the film is [MASK].", "[MASK] good [MASK] bad", "not " * 20 + "[MASK]"]


@pytest.fixture(scope="module")
def fill():
    return lmonnx.load(GOLDEN / "tiny-mlm", threads=1)


def with_source(**changes):
    bundle = Bundle.open(GOLDEN / "tiny-mlm")
    text = bundle.manifest.text
    source = replace(text.source, **changes)
    return replace(bundle, manifest=replace(bundle.manifest, text=replace(text, source=source)))


def masks_of(answer):
    """Return a list of fills a mask, also where there is one mask."""
    return [answer] if isinstance(answer[0], Fill) else answer


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['text']:.20}{case['options']}")
def test_answers_are_those_that_transformers_gave(fill, case):
    masks = masks_of(fill(case["text"], **case["options"]))
    expected = case["masks"]
    assert [[[f.token, f.token_str, f.sequence] for f in mask] for mask in masks] == [
        [row[1:] for row in mask] for mask in expected
    ]
    for mask, rows in zip(masks, expected, strict=True):
        np.testing.assert_allclose([f.score for f in mask], [r[0] for r in rows], rtol=1e-4)


def test_one_mask_is_a_list_and_several_are_a_list_of_lists(fill):
    one, two = fill("[MASK]"), fill("[MASK] [MASK]")
    assert all(isinstance(answer, Fill) for answer in one) and len(one) == 5
    assert [len(mask) for mask in two] == [5, 5]
    assert fill(["[MASK]", "[MASK] [MASK]"]) == [one, two]
    assert fill(["[MASK]"]) == [one]


def test_no_texts_are_no_answers_and_a_generator_is_read(fill):
    assert fill([]) == fill(iter(())) == []
    assert fill(text for text in TEXTS) == fill(TEXTS)


def test_other_masks_stay_visible_and_a_single_one_leaves_no_special_tokens(fill):
    assert fill("the [MASK]", targets="film")[0].sequence == "the film"
    first = fill("the [MASK] [MASK]", targets="film")[0][0]
    assert first.sequence == "[CLS] the film [MASK] [SEP]"


def test_top_k_beyond_the_vocabulary_gives_all_of_it(fill):
    answers = fill("[MASK]", top_k=10**6)
    assert len(answers) == len({answer.token for answer in answers}) > 100
    assert sum(answer.score for answer in answers) == pytest.approx(1)
    assert answers[:5] == fill("[MASK]")


def test_targets_keep_their_probability_among_all(fill):
    everything = {answer.token_str: answer.score for answer in fill("[MASK]", top_k=10**6)}
    for answer in fill("[MASK]", targets=["good", "bad"]):
        assert answer.score == everything[answer.token_str]


def test_of_a_target_of_several_pieces_the_first_is_taken(fill):
    assert [answer.token_str for answer in fill("[MASK]", targets="filming")] == ["film"]
    last = FillMasker(with_source(truncation_side=Side.LEFT))
    assert [answer.token_str for answer in last("[MASK]", targets="filming")] == ["##ing"]


@pytest.mark.parametrize("targets", [[], "", [" ", ""], 5, ["a", None], ["a", "\ud800"], {"a": 1}])
def test_targets_that_name_no_token_are_refused(fill, targets):
    with pytest.raises(InputError, match="targets"):
        fill("[MASK]", targets=targets)


@pytest.mark.parametrize("text", ["", "the film", "the film " * 40 + "[MASK]"])
def test_a_text_that_keeps_no_mask_is_named(fill, text):
    with pytest.raises(InputError, match=r"text 1 has no \[MASK\] among the 40 tokens"):
        fill(["[MASK]", text])
    with pytest.raises(InputError, match="text 1 has no"):
        list(fill.raw(["[MASK]", text]))


@pytest.mark.parametrize("texts", [5, None, [None], b"[MASK]", [("[MASK]", "a")], ["\ud800"]])
def test_what_is_no_text_is_an_input_error(fill, texts):
    with pytest.raises(InputError):
        fill(texts)


@pytest.mark.parametrize("top_k", [0, -1, 1.0, "1", True, None])
def test_another_top_k_is_refused(fill, top_k):
    with pytest.raises(InputError, match="top_k is"):
        fill("[MASK]", top_k=top_k)


@pytest.mark.parametrize("long", ["window", "max"])
def test_windows_are_refused_by_call_and_by_default(fill, long):
    with pytest.raises(InputError, match="for fill-mask it must be truncate or error"):
        fill("[MASK]", long=long)
    with pytest.raises(InputError, match="for fill-mask it must be truncate or error"):
        lmonnx.load(GOLDEN / "tiny-mlm", long=long)


def test_long_text_is_cut_or_refused(fill):
    long = "[MASK] " + "film " * 60
    assert fill(long) == fill("[MASK] " + "film " * 37)
    with pytest.raises(InputError, match="text 0 has 63 tokens, the model takes 40"):
        fill(long, long="error")


def test_a_bundle_without_a_mask_token_is_refused():
    with pytest.raises(BundleError, match="has no mask token"):
        FillMasker(with_source(mask_token=None))
    with pytest.raises(BundleError, match="lacks '<mask>'"):
        FillMasker(with_source(mask_token="<mask>"))


def test_raw_gives_a_row_of_logits_a_mask(fill):
    wide = len(fill("[MASK]", top_k=10**6))
    rows = list(fill.raw(TEXTS))
    assert [row.shape for row in rows] == [(1, wide), (1, wide), (2, wide), (1, wide)]
    (best,) = fill(TEXTS[1], top_k=1)
    assert rows[1][0].argmax() == best.token
    exact = np.exp(rows[1][0].astype(np.float64))
    assert best.score == pytest.approx((exact / exact.sum()).max())


def test_raw_holds_few_texts_at_once(fill, monkeypatch):
    whole = list(fill.raw(TEXTS * 3))
    monkeypatch.setattr(fill_mask, "RAW_TEXTS", 5)
    for one, other in zip(fill.raw(TEXTS * 3), whole, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_no_logits_are_kept_of_the_texts_read_ahead(fill):
    batch = Batch((0,), tuple(fill.tokenizer.encode([TEXTS[2]])), {})
    logits = np.zeros((1, len(batch.encodings[0].ids), 50_000), np.float32)
    (masks,) = fill._candidates({"logits": logits}, batch, top_k=3, targets=None)
    assert [mask.tokens.tolist() for mask in masks] == [[0, 1, 2]] * 2
    assert all(mask.tokens.base is mask.scores.base is None for mask in masks)


def test_masks_are_found_behind_left_padding(fill):
    left = FillMasker(with_source(padding_side=Side.LEFT))
    encodings = tuple(left.tokenizer.encode(["[MASK]", "a a [MASK]"]))
    logits = np.arange(2 * 5 * 3, dtype=np.float32).reshape(2, 5, 3)
    rows = left.reduce({"logits": logits}, Batch((0, 1), encodings, {}))
    np.testing.assert_array_equal(rows[0], logits[0, 3:4])
    np.testing.assert_array_equal(rows[1], logits[1, 3:4])


def test_a_large_vocabulary_takes_fewer_tokens_a_batch(fill, monkeypatch):
    whole = fill(TEXTS)
    monkeypatch.setattr(fill_mask, "MOST_LOGITS", 10_000)
    narrow = lmonnx.load(GOLDEN / "tiny-mlm", threads=1)
    assert 1 <= narrow.config.max_tokens < 100
    assert_same(narrow(TEXTS), whole)


def test_a_stream_answers_an_endless_input(fill, monkeypatch):
    monkeypatch.setattr(base, "LOOK_AHEAD", 8)
    read = count()
    answers = fill.stream(f"film {next(read)} [MASK]" for _ in iter(int, 1))
    assert len(list(islice(answers, 20))) == 20
    assert next(read) == 32


def assert_same(found, expected):
    for one, other in zip(found, expected, strict=True):
        for mine, theirs in zip(masks_of(one), masks_of(other), strict=True):
            assert [f.token for f in mine] == [f.token for f in theirs]
            np.testing.assert_allclose(
                [f.score for f in mine], [f.score for f in theirs], rtol=1e-4
            )


words = st.lists(
    st.sampled_from(["film", "good", "[MASK]", "\u4e2d", "don't", "[PAD]"]), max_size=8
)
texts = st.lists(words.map(lambda some: " ".join([*some, "[MASK]"])), min_size=1, max_size=8)


@given(texts, st.randoms(use_true_random=False))
def test_neighbours_and_order_never_change_an_answer(fill, asked, random):
    order = list(range(len(asked)))
    random.shuffle(order)
    together = fill([asked[i] for i in order])
    assert_same(together, [fill(asked[i]) for i in order])


rows = arrays(np.float32, st.integers(1, 40), elements=st.integers(-3, 3).map(float))


@given(rows, st.integers(1, 50))
def test_the_highest_come_first_and_of_equal_ones_the_lowest_place(row, top_k):
    expected = sorted(range(len(row)), key=lambda i: (-row[i], i))[:top_k]
    assert highest_first(row.astype(np.float64), top_k).tolist() == expected


@given(rows, st.integers(1, 50), st.data())
def test_targets_are_chosen_as_from_a_whole_softmax(row, top_k, data):
    ids = np.array(sorted(data.draw(st.sets(st.integers(0, len(row) - 1), min_size=1))))
    whole = choose_tokens(row, len(row))
    found = choose_tokens(row, top_k, ids)
    scores = dict(zip(whole.tokens.tolist(), whole.scores.tolist(), strict=True))
    kept = [token for token in whole.tokens.tolist() if token in set(ids.tolist())][:top_k]
    assert found.tokens.tolist() == kept
    assert found.scores.tolist() == [scores[token] for token in kept]


def test_large_logits_do_not_overflow():
    found = choose_tokens(np.array([1e38, -1e38, 1e38], np.float32), 2)
    assert found.tokens.tolist() == [0, 2]
    np.testing.assert_allclose(found.scores, 0.5)
