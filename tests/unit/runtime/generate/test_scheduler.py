"""Prompts are read in pieces of which attention reads no row alone."""

import pytest

from lmonnx.bundle.manifest import CacheSpec
from lmonnx.runtime.generate import scheduler
from lmonnx.runtime.generate.kv_cache import KVCache
from lmonnx.runtime.generate.scheduler import Scheduler
from lmonnx.runtime.generate.scored import Scored
from lmonnx.runtime.generate.slots import Slots

CONTEXT = 1500


def pieces(length, head_size, *, reads_from=None):
    """Return the lengths of the pieces that a prompt is read in."""
    slots = Slots(KVCache(CacheSpec(1, 1, head_size), 2, CONTEXT, first_length=1))
    line = Scheduler(slots, count=2, context=CONTEXT, vocabulary=2**18, head_size=head_size)
    job = Scored(list(range(length)), first=length if reads_from is None else reads_from + 1)
    line.waiting.append(job)
    line.admit()
    found = []
    while line.reading:
        piece = line.piece(line.budget())
        found.append(piece.stop - piece.start)
        assert piece.start == len(job.slots[0].tokens) and found[-1] > 0
        job.slots[0].tokens += job.prompt[piece.start : piece.stop]
        if piece.is_last:
            line.reading.popleft()
    assert sum(found) == length
    return found


@pytest.mark.parametrize("alone", [3, 16, 64, 512])
@pytest.mark.parametrize("head_size", [2, 4, 8, 20, 32, 64, 80, 128, 256])
@pytest.mark.parametrize("reads_from", [None, 0])
def test_no_piece_leaves_attention_a_row_alone(monkeypatch, alone, head_size, reads_from):
    monkeypatch.setattr(scheduler, "ALONE", alone)
    for length in (*range(2, 200), 255, 256, 257, 258, 385, 512, 513, 514, 515, 1025, 1026, 1300):
        for size in pieces(length, head_size, reads_from=reads_from):
            assert size % (2 * head_size) != 1, (length, size)


@pytest.mark.parametrize(
    ("live", "reading", "tokens"),
    [(0, 1, 512), (0, 8, 512), (1, 1, 64), (1, 3, 192), (4, 4, 64), (4, 5, 128), (1, 63, 512)],
)
def test_the_more_prompts_wait_for_a_sequence_the_more_of_them_is_read(live, reading, tokens):
    slots = Slots(KVCache(CacheSpec(1, 1, 8), 64, 64, first_length=1))
    line = Scheduler(slots, count=64, context=64, vocabulary=100, head_size=8)
    for _ in range(live):
        slots.join([slots.claim(())])
    line.waiting.extend(Scored([index, 1, 2, 3], first=4) for index in range(reading))
    line.admit()
    assert len(line.reading) == reading and line.budget() == tokens
