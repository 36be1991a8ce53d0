"""Pooling, packing and similarity: each against its own rule, said in plain loops."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmonnx.bundle.manifest import Pooling, Similarity
from lmonnx.errors import InputError
from lmonnx.runtime.pooling import SIMILARITIES, Packing, normalize, pack, pool

MODES = [mode for mode in Pooling if mode is not Pooling.NONE]
RULES = {
    Pooling.CLS: lambda tokens, _: tokens[0],
    Pooling.LAST: lambda tokens, _: tokens[-1],
    Pooling.MEAN: lambda tokens, _: tokens.sum(axis=0) / len(tokens),
    Pooling.MEAN_SQRT: lambda tokens, _: tokens.sum(axis=0) / len(tokens) ** 0.5,
    Pooling.MAX: lambda tokens, _: tokens.max(axis=0),
    Pooling.WEIGHTED_MEAN: lambda tokens, places: places @ tokens / places.sum(),
}


@st.composite
def padded(draw, extra: int = 0):
    """Draw vectors of rows of 1 to 6 tokens, padded on either side with garbage, and the mask."""
    lengths = draw(st.lists(st.integers(1 + extra, 6), min_size=1, max_size=4))
    size = max(lengths) + draw(st.integers(0, 3))
    left = draw(st.booleans())
    random = np.random.default_rng(draw(st.integers(0, 999)))
    hidden = random.normal(size=(len(lengths), size, 5)).astype(np.float32)
    mask = np.zeros((len(lengths), size), np.int64)
    for row, length in enumerate(lengths):
        mask[row, size - length if left else 0 : size if left else length] = 1
    return hidden, mask


@pytest.mark.parametrize("mode", MODES)
@given(padded())
def test_every_mode_follows_its_rule_whatever_the_padding(mode, drawn):
    hidden, mask = drawn
    rows = [vectors[kept.astype(bool)] for vectors, kept in zip(hidden, mask, strict=True)]
    expected = [RULES[mode](row, np.arange(1, len(row) + 1)) for row in rows]
    np.testing.assert_allclose(pool(hidden, mask, mode), expected, atol=1e-5)


@pytest.mark.parametrize("mode", MODES)
@given(padded(extra=2), st.integers(0, 2))
def test_skipped_tokens_do_not_count_but_keep_their_place(mode, drawn, skipped):
    hidden, mask = drawn
    rows = [vectors[kept.astype(bool)] for vectors, kept in zip(hidden, mask, strict=True)]
    expected = [RULES[mode](row[skipped:], np.arange(1, len(row) + 1)[skipped:]) for row in rows]
    np.testing.assert_allclose(pool(hidden, mask, mode, skipped=skipped), expected, atol=1e-5)
    column = np.full((len(mask), 1), skipped)
    assert np.array_equal(
        pool(hidden, mask, mode, skipped=column), pool(hidden, mask, mode, skipped=skipped)
    )


@pytest.mark.parametrize("mode", MODES)
def test_half_precision_is_pooled_in_float32_and_nothing_of_it_is_kept(mode):
    hidden = np.ones((2, 3, 4), np.float16)
    for values in (hidden, hidden.astype(np.float32)):
        pooled = pool(values, np.ones((2, 3), np.int64), mode)
        assert pooled.dtype == np.float32
        assert not np.shares_memory(pooled, values)
        assert pooled.base is None or pooled.base.nbytes <= pooled.nbytes


@pytest.mark.parametrize("mode", sorted(set(MODES) - {Pooling.MAX, Pooling.CLS}))
def test_a_row_without_tokens_is_zero(mode):
    empty = np.zeros((1, 3), np.int64)
    assert not pool(np.ones((1, 3, 4), np.float32), empty, mode).any()


def test_zero_stays_zero_and_all_else_gets_length_one():
    vectors = np.array([[0, 0], [3, 4], [1e-3, 0]], np.float32)
    np.testing.assert_allclose(normalize(vectors), [[0, 0], [0.6, 0.8], [1, 0]], rtol=1e-6)


@pytest.mark.parametrize(("packing", "first"), [("int8", -128), ("uint8", 0)])
def test_integers_spread_over_the_ranges_and_stop_at_their_ends(packing, first):
    ranges = np.array([[-1, 0, 5], [1, 1, 5]], np.float32)
    vectors = np.array([[-9, 0.5, 5], [9, 0.9999, 6], [0, -3, 4]], np.float32)
    found = pack(vectors, Packing(packing), ranges)
    expected = np.array([[0, 127, 0], [255, 254, 1], [127, 0, 0]]) + first
    assert found.dtype == packing
    assert found.tolist() == expected.tolist()


@given(st.integers(1, 20), st.integers(0, 5))
def test_bits_say_what_is_above_zero(dimensions, rows):
    vectors = np.random.default_rng(rows).normal(size=(rows, dimensions)).astype(np.float32)
    bits = pack(vectors, Packing.UBINARY)
    assert bits.shape == (rows, (dimensions + 7) // 8)
    assert np.array_equal(np.unpackbits(bits, axis=1, count=dimensions), vectors > 0)
    assert np.array_equal(pack(vectors, Packing.BINARY), bits.astype(int) - 128)


@pytest.mark.parametrize(("packing", "width"), [("int8", 9), ("uint8", 9), ("binary", 2)])
def test_no_vectors_are_packed_to_none(packing, width):
    assert pack(np.empty((0, 9), np.float32), Packing(packing)).shape == (0, width)


DISTANCES = {
    Similarity.COSINE: lambda a, b: a @ b / (a @ a) ** 0.5 / (b @ b) ** 0.5,
    Similarity.DOT: lambda a, b: a @ b,
    Similarity.EUCLIDEAN: lambda a, b: -(((a - b) ** 2).sum() ** 0.5),
    Similarity.MANHATTAN: lambda a, b: -np.abs(a - b).sum(),
}


@pytest.mark.parametrize("kind", Similarity)
def test_each_similarity_follows_its_formula(kind):
    a, b = np.random.default_rng(0).normal(size=(2, 4, 7)).astype(np.float32)
    expected = [[DISTANCES[kind](x, y) for y in b[:3]] for x in a]
    found = SIMILARITIES[kind](a, b[:3])
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_vector_is_at_no_distance_from_itself():
    vectors = np.random.default_rng(1).normal(size=(5, 400)).astype(np.float32)
    assert np.abs(np.diag(SIMILARITIES[Similarity.EUCLIDEAN](vectors, vectors))).max() < 1e-5


@pytest.mark.parametrize("ranges", [np.full((2, 2), np.nan), np.array([[1.0, 1.0], [0.0, 2.0]])])
def test_ranges_that_are_none_are_refused(ranges):
    with pytest.raises(InputError, match="ranges must be numbers"):
        pack(np.ones((3, 2), np.float32), Packing.INT8, ranges)
