"""Tallies hold what a plain count of the row says, however long it is and whatever is undone."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmonnx.runtime.generate.history import History, Tally
from lmonnx.runtime.generate.params import SamplingParams
from lmonnx.runtime.generate.rules import Rules


def counted(tally):
    return dict(zip(tally.ids.tolist(), tally.counts.tolist(), strict=True))


@pytest.mark.parametrize("distinct", [1, 63, 64, 65, 128, 129, 1000])
def test_any_number_of_tokens_is_counted(distinct):
    tally = Tally()
    tokens = [7 * index for index in range(distinct)] * 2
    for token in tokens:
        tally.push(token)
    assert counted(tally) == Counter(tokens)
    for token in reversed(tokens[distinct // 2 :]):
        tally.pop(token)
    assert counted(tally) == Counter(tokens[: distinct // 2])


@given(st.lists(st.lists(st.integers(0, 150), max_size=200), min_size=1, max_size=4))
def test_a_history_counts_what_it_follows(rows):
    history = History(rows[0], tallies=True)
    for row in rows:
        history.follow(row)
        assert counted(history.completion) == Counter(row)
        assert counted(history.whole) == Counter(rows[0] + row)


@pytest.mark.parametrize("name", ["repetition_penalty", "presence_penalty", "frequency_penalty"])
def test_penalties_of_long_rows_fall_on_each_token_as_often_as_it_stands(name):
    generated = [*range(200), *range(0, 200, 3)]
    rules = Rules(
        SamplingParams(**{name: 1.5}),
        prompt=[300],
        stop_ids=[399],
        vocabulary=400,
        encode=lambda text: [],
    )
    for length in (10, 150, 40, len(generated)):  # beams go back as well
        counts = np.zeros(400)
        for token in generated[:length]:
            counts[token] += 1
        logits = np.full(400, 6.0, np.float32)
        wanted = logits.copy()
        if name == "repetition_penalty":
            wanted[[*generated[:length], 300]] /= 1.5
        else:
            wanted -= 1.5 * (counts if name == "frequency_penalty" else counts > 0)
        np.testing.assert_allclose(rules.apply(logits, generated[:length]), wanted, rtol=1e-6)
