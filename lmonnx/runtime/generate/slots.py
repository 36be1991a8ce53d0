"""Which sequence has which slot of the cache; what idle slots still know is used again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from lmonnx.runtime.generate.decoder import Logits
from lmonnx.runtime.generate.kv_cache import KVCache


@dataclass(eq=False, slots=True)
class Slot:
    """A place in the cache: `tokens` are those whose keys and values it holds, from the first on.

    The first `read` of them were read as a prompt, and serve other prompts. Those that were
    decoded one at a time do not: attention rounds one row otherwise than several, and int8
    activations make half a nat of it (docs/decisions/0011). `ending` are the logits (V,) after
    those `read`, where a prompt ended there. `index` changes when slots change places; whoever has
    a slot keeps this object.
    """

    index: int
    tokens: list[int] = field(default_factory=list)
    read: int = 0
    ending: Logits | None = None
    taken: bool = False
    stamp: int = 0  # of its last use: the longest idle is given away first

    def shares(self, tokens: Sequence[int]) -> int:
        """Return how many of the first tokens it holds for other prompts."""
        return min(self.read, common_prefix(self.tokens, tokens))

    def ends(self, tokens: Sequence[int]) -> bool:
        """Return whether it knows what comes after just these."""
        return self.ending is not None and self.read == len(tokens) == self.shares(tokens)


class Slots:
    """The slots in the order of the cache: first the live ones, whose rows are one batch.

    A prompt is run in a slot that is taken and not live; `join` makes it live.
    """

    def __init__(self, cache: KVCache) -> None:
        self._cache = cache
        self._slots = [Slot(index) for index in range(cache.slots)]
        self._clock = 0
        self.live = 0

    @property
    def idle(self) -> int:
        """How many slots nobody has."""
        return sum(not slot.taken for slot in self._slots)

    def shared(self, tokens: Sequence[int]) -> int:
        """Return how many of the first tokens some slot holds already."""
        return max(slot.shares(tokens) for slot in self._slots)

    def ends(self, tokens: Sequence[int]) -> bool:
        """Return whether some slot knows what comes after just these tokens."""
        return any(slot.ends(tokens) for slot in self._slots)

    def claim(self, tokens: Sequence[int]) -> Slot:
        """Give an idle slot that holds as many of the first tokens as any slot does.

        They are used where they are, if nothing else would be lost by it, else copied.
        """
        source = max(self._slots, key=lambda slot: (slot.shares(tokens), slot.ends(tokens)))
        rows = source.shares(tokens)
        idle = [slot for slot in self._slots if not slot.taken]
        target = min(idle, key=lambda slot: (bool(slot.tokens), slot.stamp))
        if not source.taken and rows and (rows == source.read or len(idle) == 1):
            target = source
        if target is not source:
            self._cache.copy(source.index, target.index, 0, rows)
        target.ending = source.ending if source.ends(tokens) else None
        target.tokens, target.read = list(tokens[:rows]), rows
        target.taken = True
        return target

    def join(self, slots: Sequence[Slot]) -> None:
        """Make taken slots live: those that are not behind the last live one move there."""
        stop = self.live + len(slots)
        moving = [slot for slot in slots if slot.index >= stop]
        others = [slot for slot in self._slots[self.live : stop] if slot not in slots]
        for one, other in zip(moving, others, strict=True):
            self._swap(one, other)
        self.live = stop

    def leave(self, slots: Sequence[Slot]) -> None:
        """Give slots back; the last live ones take the places of those that were live."""
        self._clock += 1
        for slot in slots:
            slot.taken, slot.stamp = False, self._clock
            del slot.tokens[slot.read :]
        left = [slot for slot in slots if slot.index < self.live]
        stop, self.live = self.live, self.live - len(left)
        gaps = [slot for slot in left if slot.index < self.live]
        last = [slot for slot in self._slots[self.live : stop] if slot not in left]
        for one, other in zip(gaps, last, strict=True):
            self._swap(one, other)

    def forget(self) -> None:
        """Give back every slot, and know nothing of what is in them."""
        self._slots = [Slot(index) for index in range(self._cache.slots)]
        self.live = 0

    def fork(self, slots: Sequence[Slot], parents: Sequence[int]) -> None:
        """Let slot i go on from what slot `parents[i]` holds; only rows that differ are copied."""
        before = [list(slots[parent].tokens) for parent in parents]
        moves = [  # source, target, from where on they differ, to where
            (
                slots[parent].index,
                slots[target].index,
                common_prefix(slots[target].tokens, before[target]),
                len(before[target]),
            )
            for target, parent in enumerate(parents)
            if parent != target
        ]
        if moves:
            self._cache.copy_many(*np.array(moves, np.int64).T)
        for slot, tokens in zip(slots, before, strict=True):
            slot.tokens = tokens

    def _swap(self, one: Slot, other: Slot) -> None:
        places, zeros = np.array([one.index, other.index]), np.zeros(2, np.int64)
        lengths = np.array([len(one.tokens), len(other.tokens)])
        self._cache.copy_many(places, places[::-1], zeros, lengths)
        one.index, other.index = other.index, one.index
        self._slots[one.index], self._slots[other.index] = one, other


def common_prefix(one: Sequence[int], other: Sequence[int]) -> int:
    """Return how many first tokens two rows share."""
    low, high = 0, min(len(one), len(other))
    if one[:high] == other[:high]:
        return high
    while high - low > 1:  # one[:low] is shared, one[:high] is not
        middle = (low + high) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle
    return low
