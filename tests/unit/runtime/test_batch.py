"""Ids → padded arrays: what a row holds and where."""

import numpy as np
import pytest

from lmonnx.bundle.manifest import Side, TokenizerSpec
from lmonnx.runtime.batch import batches
from lmonnx.runtime.tokenizer import Encoding

ALL = frozenset({"input_ids", "attention_mask", "token_type_ids"})
RIGHT = TokenizerSpec("t", pad_id=9, pad_type_id=7)
LEFT = TokenizerSpec("t", pad_id=9, padding_side=Side.LEFT)


def encodings(*lengths: int) -> list[Encoding]:
    return [Encoding(row, [row + 1] * n, [1] * n) for row, n in enumerate(lengths)]


def test_short_rows_are_filled_on_the_right_and_masked():
    (batch,) = batches(encodings(3, 1), RIGHT, ALL)
    assert batch.places == (1, 0)
    assert batch.inputs["input_ids"].tolist() == [[2, 9, 9], [1, 1, 1]]
    assert batch.inputs["attention_mask"].tolist() == [[1, 0, 0], [1, 1, 1]]
    assert batch.inputs["token_type_ids"].tolist() == [[1, 7, 7], [1, 1, 1]]


def test_of_one_type_none_is_told():
    (batch,) = batches(encodings(3, 1), TokenizerSpec("t", pad_id=9, one_type=True), ALL)
    assert not batch.inputs["token_type_ids"].any()


def test_a_left_side_is_filled_on_the_left():
    (batch,) = batches(encodings(3, 1), LEFT, ALL)
    assert batch.inputs["input_ids"].tolist() == [[9, 9, 2], [1, 1, 1]]
    assert batch.inputs["attention_mask"].tolist() == [[0, 0, 1], [1, 1, 1]]


def test_only_the_inputs_of_the_graph_are_given_as_int64():
    (batch,) = batches(encodings(2), RIGHT, frozenset({"input_ids", "other"}))
    assert batch.inputs.keys() == {"input_ids"}
    assert batch.inputs["input_ids"].dtype == np.int64


def test_an_encoding_without_tokens_is_one_masked_column():
    (batch,) = batches(encodings(0, 0), RIGHT, ALL)
    assert batch.inputs["attention_mask"].tolist() == [[0], [0]]


def test_no_encodings_are_no_batches():
    assert list(batches([], RIGHT, ALL)) == []


@pytest.mark.parametrize(
    ("lengths", "budget", "rows"),
    [
        ((4, 4, 4, 4), 8, [2, 2]),
        ((4, 4, 4, 4), 7, [1, 1, 1, 1]),
        ((100, 1, 1), 8, [1, 2]),  # longer than the budget: alone
        ((1, 1, 1, 4), 8, [1, 3]),  # 4 × 4 would be 16
        ((1,), 1, [1]),
    ],
)
def test_a_batch_stays_within_its_budget_padding_included(lengths, budget, rows):
    made = list(batches(encodings(*lengths), RIGHT, ALL, max_tokens=budget))
    assert [len(batch.places) for batch in made] == rows
