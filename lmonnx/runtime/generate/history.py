"""What stands before the next token, kept so that a step adds to it and a change undoes it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


class Tally:
    """The distinct tokens of a row and how often each stands there; what came last leaves first."""

    def __init__(self) -> None:
        self._places: dict[int, int] = {}
        self._ids = np.empty(64, np.int64)
        self._counts = np.zeros(64, np.float32)

    def push(self, token: int) -> None:
        """Count a token."""
        place = self._places.setdefault(token, len(self._places))
        if place == len(self._ids):
            self._ids = np.concatenate([self._ids, np.zeros_like(self._ids)])
            self._counts = np.concatenate([self._counts, np.zeros_like(self._counts)])
        if place == len(self._places) - 1:
            self._ids[place] = token
        self._counts[place] += 1

    def pop(self, token: int) -> None:
        """Undo the last `push`, which was of `token`."""
        place = self._places[token]
        self._counts[place] -= 1
        if not self._counts[place]:  # its first push came last, so its place is the last
            del self._places[token]

    @property
    def ids(self) -> NDArray[np.int64]:
        """The distinct tokens."""
        return self._ids[: len(self._places)]

    @property
    def counts(self) -> NDArray[np.float32]:
        """How often each of `ids` stands there."""
        return self._counts[: len(self._places)]


class History:
    """The tokens of the prompt and of the completion so far, with what the rules ask of them.

    Args:
        prompt: The prompt's tokens.
        ngram: The n of the n-grams to remember, 0 for none.
        tallies: Count tokens: `whole` (prompt and completion) and `completion`.
    """

    def __init__(self, prompt: Sequence[int], *, ngram: int = 0, tallies: bool = False) -> None:
        self.tokens: list[int] = []
        self.generated: list[int] = []
        self.whole, self.completion = Tally(), Tally()
        self._ngram, self._tallies = ngram, tallies
        self._followers: dict[tuple[int, ...], list[int]] = {}
        for token in prompt:
            self._push(int(token))

    def follow(self, generated: Sequence[int]) -> None:
        """Make `generated` the completion so far, whatever it was before."""
        known, mine = len(self.generated), self.generated
        if mine != list(generated[:known]):
            pairs = enumerate(zip(mine, generated, strict=False))
            shared = next((i for i, (a, b) in pairs if a != b), min(known, len(generated)))
            for _ in range(known - shared):
                self._undo()
        for token in generated[len(mine) :]:
            mine.append(int(token))
            self._push(int(token))
            if self._tallies:
                self.completion.push(int(token))

    def followers(self) -> list[int]:
        """Return what has followed the last n - 1 tokens before."""
        start = len(self.tokens) - self._ngram + 1
        return self._followers.get(tuple(self.tokens[start:]), []) if start >= 0 else []

    def _push(self, token: int) -> None:
        self.tokens.append(token)
        if self._tallies:
            self.whole.push(token)
        if self._ngram and len(self.tokens) >= self._ngram:
            self._followers.setdefault(self._key(), []).append(token)

    def _undo(self) -> None:
        token = self.generated.pop()
        if self._ngram and len(self.tokens) >= self._ngram:
            self._followers[self._key()].pop()
        if self._tallies:
            self.whole.pop(token)
            self.completion.pop(token)
        self.tokens.pop()

    def _key(self) -> tuple[int, ...]:
        """Return the n - 1 tokens before the last."""
        return tuple(self.tokens[-self._ngram : -1])
