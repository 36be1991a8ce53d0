"""Slots and what is in them: the cache always holds what the slot says it does."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmonnx.bundle.manifest import CacheSpec
from lmonnx.runtime.generate.kv_cache import KVCache, token_bytes
from lmonnx.runtime.generate.slots import Slots, common_prefix

SPEC = CacheSpec(layers=2, heads=2, head_size=3)
SLOTS, LENGTH = 4, 12
rows = st.lists(st.integers(1, 3), max_size=LENGTH)


class Machine:
    """A pool whose graph writes each token's id, and its place, into the cache."""

    def __init__(self):
        self.cache = KVCache(SPEC, SLOTS, LENGTH)
        self.slots = Slots(self.cache)
        self.held = []

    def write(self, slot, tokens):
        for token in tokens[: LENGTH - len(slot.tokens)]:
            for array in self.cache.view(slot.index, 1).values():
                array[0, :, len(slot.tokens)] = 100 * len(slot.tokens) + token
            slot.tokens.append(token)
        slot.read = len(slot.tokens)

    def check(self):
        slots = self.slots._slots
        assert [slot.index for slot in slots] == list(range(SLOTS))
        assert all(slot.taken for slot in slots[: self.slots.live])
        assert {id(slot) for slot in slots if slot.taken} == {id(slot) for slot in self.held}
        for slot in slots:
            wanted = [100 * place + token for place, token in enumerate(slot.tokens)]
            for array in self.cache.view(slot.index, 1).values():
                assert (array[0, :, : len(wanted)] == np.array(wanted)[:, None]).all()


def some(data, slots):
    return data.draw(st.lists(st.sampled_from(slots), min_size=1, unique_by=id))


@settings(max_examples=150)
@given(st.data())
def test_a_slot_holds_the_rows_of_its_tokens_whatever_happens(data):
    machine = Machine()
    slots, held = machine.slots, machine.held
    for _ in range(data.draw(st.integers(1, 25))):
        live = [slot for slot in held if slot.index < slots.live]
        act = data.draw(st.sampled_from(["claim", "join", "leave", "write", "trim", "fork"]))
        if act == "claim" and slots.idle:
            tokens = data.draw(rows)
            shared = slots.shared(tokens)
            held.append(slots.claim(tokens))
            assert held[-1].tokens == tokens[:shared]
            machine.write(held[-1], tokens[shared:])
        elif act == "join" and (waiting := [slot for slot in held if slot not in live]):
            slots.join(some(data, waiting))
        elif act == "leave" and held:
            given_back = some(data, held)
            slots.leave(given_back)
            machine.held[:] = [slot for slot in held if slot not in given_back]
        elif act == "write" and held:
            machine.write(data.draw(st.sampled_from(held)), data.draw(rows))
        elif act == "trim" and held:
            slot = data.draw(st.sampled_from(held))
            del slot.tokens[data.draw(st.integers(0, len(slot.tokens))) :]
        elif act == "fork" and live:
            parents = data.draw(
                st.lists(st.integers(0, len(live) - 1), min_size=len(live), max_size=len(live))
            )
            wanted = [list(live[parent].tokens) for parent in parents]
            slots.fork(live, parents)
            assert [slot.tokens for slot in live] == wanted
        machine.check()


def test_what_nobody_uses_is_given_away_longest_idle_first():
    machine = Machine()
    slots = machine.slots
    for start in range(SLOTS):
        slot = slots.claim([start])
        machine.held.append(slot)
        machine.write(slot, [start, start])
    for slot in machine.held:
        slots.leave([slot])
    assert slots.claim([9]).tokens == [] and slots.shared([0, 0]) == 0 and slots.shared([1, 1]) == 2


def test_slots_that_join_or_leave_together_are_not_moved(monkeypatch):
    machine = Machine()
    slots = machine.slots
    machine.held += [slots.claim([]) for _ in range(SLOTS)]
    for slot in machine.held:
        machine.write(slot, [1, 2])
    monkeypatch.setattr(machine.cache, "copy_many", lambda *_: pytest.fail("something moved"))
    slots.join(machine.held[::-1])
    machine.check()
    slots.leave(machine.held)
    assert slots.live == 0


def test_what_comes_after_a_prompt_is_known_of_just_that_prompt():
    machine = Machine()
    slots = machine.slots
    first = slots.claim([])
    machine.held.append(first)
    machine.write(first, [1, 2, 3])
    first.ending = np.ones(5, np.float32)
    assert slots.ends([1, 2, 3])
    assert not any(map(slots.ends, ([1, 2], [1, 2, 3, 1], [1, 2, 2])))
    copied = slots.claim([1, 2, 3])
    assert copied is not first and copied.ending is first.ending and copied.tokens == [1, 2, 3]
    assert slots.claim([1, 2]).ending is None
    assert slots.claim([1, 2, 3, 1]).ending is None
    slots.leave([first])
    assert slots.claim([1, 2]) is first and first.ending is None


def test_beams_that_exchange_places_copy_what_differs(monkeypatch):
    machine = Machine()
    slots = [machine.slots.claim([]) for _ in range(2)]
    machine.held += slots
    for slot, tokens in zip(slots, ([1, 2, 3], [1, 2, 1]), strict=True):
        machine.write(slot, tokens)
        machine.slots.join([slot])
    copied = []
    real = machine.cache.copy_many
    monkeypatch.setattr(machine.cache, "copy_many", lambda *a: copied.append(a[2:]) or real(*a))
    machine.slots.fork(slots, [1, 0])
    ((starts, stops),) = copied
    assert starts.tolist() == [2, 2] and stops.tolist() == [3, 3]
    machine.check()


@given(rows, rows)
def test_common_prefix_is_the_longest_shared_beginning(one, other):
    length = common_prefix(one, other)
    assert one[:length] == other[:length]
    assert length in (len(one), len(other)) or one[length] != other[length]


def test_a_cache_costs_nothing_before_it_is_written():
    status = Path("/proc/self/statm")
    if not status.exists():
        pytest.skip("there is no /proc")
    before = resident(status)
    cache = KVCache(CacheSpec(8, 4, 64), 16, 4096)
    assert cache.bytes == 16 * 4096 * token_bytes(CacheSpec(8, 4, 64)) >= 2**30
    for slot in range(16):
        for array in cache.view(slot, 1).values():
            array[0, :, 0] = 1
    assert resident(status) - before < 64 * 2**20


def test_room_grows_as_it_is_needed_and_keeps_what_is_held():
    cache = KVCache(SPEC, 3, 10, first_length=4)
    first = cache.view(0, 3)
    for place, array in enumerate(first.values()):
        array[:] = place + np.arange(4)[:, None]
    assert not cache.make_room(4, 2) and cache.view(0, 3)["0.key"].shape[2] == 4
    assert cache.make_room(5, 2) and cache.view(0, 3)["0.key"].shape[2] == 8
    assert cache.make_room(10, 2) and cache.view(0, 3)["0.key"].shape[2] == 10
    for before, after in zip(first.values(), cache.view(0, 3).values(), strict=True):
        np.testing.assert_array_equal(after[:2, :, :4], before[:2])
        assert not after[2].any() and not after[:, :, 4:].any()
    cache.clear()
    assert cache.view(0, 3)["0.key"].shape[2] == 4
    assert cache.bytes == 3 * 10 * token_bytes(SPEC)


def resident(status):
    return int(status.read_text().split()[1]) * 4096


@pytest.mark.parametrize("head_size", [1, 24, 64])  # of pages that parts share, and of whole ones
def test_room_that_grows_keeps_what_every_part_holds(head_size):
    cache = KVCache(CacheSpec(3, 2, head_size), 5, 70, first_length=8)
    wanted = {}
    for number, (name, array) in enumerate(cache.view(0, 5).items()):
        array[:] = number + np.arange(array.size).reshape(array.shape)
        wanted[name] = array.copy()
    for tokens in (9, 30, 70):
        assert cache.make_room(tokens, 4)
        for name, array in cache.view(0, 4).items():
            np.testing.assert_array_equal(array[:, :, :8], wanted[name][:4])
