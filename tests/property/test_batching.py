"""Laws of batching: every encoding comes back once, and no neighbour changes an answer."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lmonnx
from lmonnx.bundle.manifest import Side, TokenizerSpec
from lmonnx.runtime.batch import batches
from lmonnx.runtime.tokenizer import Encoding
from tests.texts import mixed_texts

ALL = frozenset({"input_ids", "attention_mask", "token_type_ids"})
lengths = st.lists(st.integers(0, 60), max_size=60)
specs = st.builds(
    TokenizerSpec, st.just("t"), pad_id=st.integers(0, 9), padding_side=st.sampled_from(Side)
)
MIXED = [tuple(item) if isinstance(item, list) else item for item in mixed_texts()]
texts = st.text(max_size=40) | st.sampled_from(MIXED) | st.tuples(st.text(), st.text(max_size=9))


def encodings(sizes: list[int]) -> list[Encoding]:
    return [Encoding(row, [100 + row] * size, [row % 2] * size) for row, size in enumerate(sizes)]


@given(lengths, specs, st.integers(1, 400))
def test_every_encoding_is_in_one_batch_and_comes_back_whole(sizes, spec, budget):
    found = {}
    for batch in batches(encodings(sizes), spec, ALL, max_tokens=budget):
        for place, ids, mask, types in zip(batch.places, *batch.inputs.values(), strict=True):
            assert place not in found
            found[place] = (ids[mask == 1].tolist(), types[mask == 1].tolist())
            assert (ids[mask == 0] == spec.pad_id).all()
    assert found == {e.row: (e.ids, e.type_ids) for e in encodings(sizes)}


@given(lengths, specs, st.integers(1, 400))
def test_a_batch_is_within_budget_or_holds_one(sizes, spec, budget):
    made = list(batches(encodings(sizes), spec, ALL, max_tokens=budget))
    shapes = [batch.inputs["input_ids"].shape for batch in made]
    assert all(rows == 1 or width <= 1 or rows * width <= budget for rows, width in shapes)
    widths = [width for _, width in shapes]
    assert widths == sorted(widths, reverse=True)  # like lengths run together


@settings(max_examples=40)
@given(st.lists(texts, min_size=1, max_size=12), st.randoms(use_true_random=False))
def test_neighbours_and_order_never_change_an_answer(tiny_model, items, draw):
    alone = np.concatenate([tiny_model.logits([item]) for item in items])
    order = draw.sample(range(len(items)), len(items))
    together = tiny_model.logits([items[i] for i in order])
    np.testing.assert_allclose(together, alone[order], atol=1e-5)


@settings(max_examples=20)
@given(st.lists(texts, min_size=1, max_size=12), st.integers(1, 2000))
def test_the_budget_of_a_batch_never_changes_an_answer(tiny_model, items, budget):
    found = [
        row
        for batch in batches(
            tiny_model.tokenizer.encode(items),
            tiny_model.bundle.manifest.text.source,
            ALL,
            max_tokens=budget,
        )
        for row in zip(batch.encodings, tiny_model.session.run(batch.inputs)["logits"], strict=True)
    ]
    for encoding, logits in found:
        alone = tiny_model.logits([items[encoding.row]])[0]
        if len(tiny_model.tokenizer.encode([items[encoding.row]])) == 1:
            np.testing.assert_allclose(logits, alone, atol=1e-5)


@settings(max_examples=20)
@given(texts, st.integers(0, 40))
def test_padding_never_changes_an_answer(tiny_model, item, more):
    (plain, *_) = tiny_model.tokenizer.encode([item])
    spec = tiny_model.bundle.manifest.text.source
    width = min(64, len(plain.ids) + more)
    longer = Encoding(1, [5] * width, [0] * width)
    (alone,) = batches([plain], spec, ALL)
    both = batches([plain, longer], spec, ALL, max_tokens=10**4)
    padded = next(batch for batch in both if 0 in batch.places)
    at = padded.places.index(0)
    expected = tiny_model.session.run(alone.inputs)["logits"][0]
    np.testing.assert_allclose(
        tiny_model.session.run(padded.inputs)["logits"][at], expected, atol=1e-5
    )


@pytest.mark.parametrize("threads", [1, 2])
def test_eight_threads_at_once_get_the_same_answers(tiny_bundle, threads):
    model = lmonnx.load(tiny_bundle, threads=threads)
    expected = model.logits(MIXED)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: model.logits(MIXED), range(24)))
    for logits in found:
        np.testing.assert_allclose(logits, expected, atol=1e-5)
