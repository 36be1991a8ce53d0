"""How many tokens to guess ahead: as many as pay, by what was seen so far."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from time import perf_counter

SIZES = (2, 4, 8, 16)
FADE = 0.8  # of what was known before, at each look
# Calls without a draft before one is tried again; twice as many after each that was all wrong.
PROBE, MOST_PATIENCE = 12, 192
HOPE = 0.6  # of each token, before anything is known
# A call's cost over that of one token's, for each token more, before it was measured.
SLOPE = 0.15


class Drafter(ABC):
    """Guesses the next tokens; what it guesses can change the speed and nothing else."""

    def __init__(self, most: int, clock: Callable[[], float] = perf_counter) -> None:
        """`most` is the most tokens of a draft."""
        self._pace = Pace(most, clock)
        self._size = 0

    @abstractmethod
    def guess(self, tokens: Sequence[int], limit: int) -> list[int]:
        """Return at most `limit` tokens that may follow, none where there is no clue."""

    def propose(self, tokens: Sequence[int], limit: int) -> list[int]:
        """Return a draft of as many tokens as are worth running, often none."""
        self._pace.lap(len(tokens))
        start, size = self._pace.now(), min(limit, self._pace.size())
        found = self.guess(tokens, size) if size else []
        self._size = len(tokens)
        self._pace.begin(start, len(found), len(tokens))
        return found

    def judge(self, drafted: int, length: int) -> None:
        """Learn how a draft went: `length` tokens are known now."""
        self._pace.learn(drafted, min(drafted, length - self._size - 1))


class Pace:
    """What drafts cost and give: their share of tokens kept, and a call's time by its tokens."""

    def __init__(self, most: int, clock: Callable[[], float] = perf_counter) -> None:
        self._sizes = (*(size for size in SIZES if size < most), most)
        self._clock = clock
        self._kept = HOPE
        self._plain: float | None = None  # seconds of a call without a draft
        self._slope = SLOPE
        self._since, self._patience = 0, PROBE
        self._began: tuple[float, int, int] | None = None

    def size(self) -> int:
        """Return the length of draft that gives the most tokens a second; 0 for none."""
        if self._since >= self._patience:
            return self._sizes[0]
        gains = {size: self._gain(size) for size in self._sizes}
        best = max(gains, key=gains.__getitem__)
        return best if gains[best] > 1 else 0

    def now(self) -> float:
        """Return the time, in seconds."""
        return self._clock()

    def begin(self, start: float, drafted: int, length: int) -> None:
        """Note that a call started then; guessing is part of it."""
        self._since = 0 if drafted else self._since + 1
        self._began = (start, drafted, length)

    def lap(self, length: int) -> None:
        """Note that the call is over; it counts if nothing but one token came of a plain one."""
        if self._began is None:
            return
        start, drafted, before = self._began
        self._began = None
        seconds = self._clock() - start
        if not drafted and length == before + 1:
            self._plain = seconds if self._plain is None else self._mix(self._plain, seconds)
        elif drafted and self._plain:
            slope = max(0.0, seconds / self._plain - 1) / drafted
            self._slope = self._mix(self._slope, slope)

    def learn(self, drafted: int, kept: int) -> None:
        """Note how many of a draft's tokens were right; what comes after a wrong one is unknown."""
        if not drafted:
            return
        self._patience = PROBE if kept else min(2 * self._patience, MOST_PATIENCE)
        seen = min(drafted, kept + 1)
        self._kept = self._mix(self._kept, kept / seen, seen)

    def _gain(self, size: int) -> float:
        """Return tokens a call over the call's cost, both in plain calls."""
        p = self._kept
        tokens = size + 1.0 if p >= 1 else (1 - p ** (size + 1)) / (1 - p)
        return tokens / (1 + self._slope * size)

    @staticmethod
    def _mix(old: float, new: float, weight: int = 1) -> float:
        keep = FADE**weight
        return keep * old + (1 - keep) * new
