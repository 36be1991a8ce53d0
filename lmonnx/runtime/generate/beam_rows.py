"""Which row of the cache each beam lies in, so that few must be copied."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lmonnx.runtime.generate.beam_groups import Steps
from lmonnx.runtime.generate.lane import Moves
from lmonnx.runtime.generate.selection import Ids
from lmonnx.runtime.numerics import Floats


class BeamRows:
    """The rows of G searches of n beams: beam i of search g lies in row `of(g)[i]` of its n.

    The first beam that goes on from another takes its row, whatever its rank; only others are
    copied, to rows whose beams have died out.
    """

    def __init__(self, beams: int) -> None:
        """Start without any."""
        self._at = np.zeros((0, beams), np.int64)
        self.last = np.zeros((0, beams), np.int64)  # (G, n) the last token of each row

    def add(self, starts: Sequence[int]) -> None:
        """Take in searches behind the others, each with what it starts from in all its rows."""
        shape = (len(starts), self._at.shape[1])
        self._at = np.concatenate([self._at, np.broadcast_to(np.arange(shape[1]), shape)])
        begun = np.array(starts, np.int64)[:, None]
        self.last = np.concatenate([self.last, np.broadcast_to(begun, shape)])

    def join(self, others: BeamRows) -> None:
        """Take in the searches of another at the end."""
        self._at = np.concatenate([self._at, others._at])
        self.last = np.concatenate([self.last, others.last])

    def keep(self, places: Sequence[int]) -> None:
        """Go on with the searches at some places, in that order."""
        chosen = np.array(places, np.int64)
        self._at, self.last = self._at[chosen], self.last[chosen]

    def of(self, place: int) -> Ids:
        """Return the row of each beam of a search, best first: (n,)."""
        row: Ids = self._at[place]
        return row

    def ranked(self, values: Floats, ids: Ids) -> tuple[Floats, Ids]:
        """Return what the rows have, each (G, n, k), in the order of the beams."""
        each = np.arange(len(values))[:, None]
        return values[each, self._at], ids[each, self._at]

    def follow(self, steps: Steps, before: Ids, lengths: Ids) -> Moves | None:
        """Give the next beams their rows; return which rows are copied to which.

        Args:
            steps: The next beams.
            before: (G, n, T), the tokens of the beams before the step.
            lengths: (G,), how many there are after it, which is what the cache holds.
        """
        parents, old = steps.parents, self._at
        count, n = parents.shape
        each = np.arange(count)[:, None]
        rows = old[each, parents]
        again = ((parents[:, :, None] == parents[:, None, :]) & _earlier(n)).any(axis=2)
        searches, beams = np.nonzero(again)
        moves = None
        if len(searches):
            free = np.ones((count, n), bool)
            free[each, rows] = False
            targets = np.nonzero(free)[1]  # as many in each search as beams that need one
            sources = rows[searches, beams]
            rows[searches, beams] = targets
            gone = old.argsort(axis=1)[searches, targets]  # the beams that lay there
            differs = before[searches, parents[searches, beams]] != before[searches, gone]
            # Behind the start token; where nothing differs, nothing is copied.
            stops = lengths[searches]
            differs &= np.arange(differs.shape[1]) < stops[:, None] - 1
            starts = np.where(differs.any(axis=1), differs.argmax(axis=1) + 1, stops)
            some, at = starts < stops, searches * n
            moves = (at + sources)[some], (at + targets)[some], starts[some], stops[some]
        self._at = rows
        self.last[each, rows] = steps.tokens
        return moves


def _earlier(n: int) -> NDArray[np.bool_]:
    """Return (n, n): whether the second comes before the first."""
    return np.tri(n, k=-1, dtype=bool)
