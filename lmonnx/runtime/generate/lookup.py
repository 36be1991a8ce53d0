"""Guess that text repeats: what followed the last words before may follow them again.

Source:
    Prompt lookup decoding, A. Saxena 2023; transformers' `PromptLookupCandidateGenerator`.
"""

from __future__ import annotations

from collections.abc import Sequence

from lmonnx.runtime.generate.drafting import Drafter

LONGEST, SHORTEST = 3, 2  # tokens of the pattern that is looked up


class PromptLookup(Drafter):
    """Remembers where each pair and triple of tokens was last: a guess costs one look."""

    def __init__(self, most: int) -> None:
        super().__init__(most)
        self._ends: dict[tuple[int, ...], int] = {}  # pattern → the place after it
        self._read_to = 0

    def guess(self, tokens: Sequence[int], limit: int) -> list[int]:
        """Return what followed the last three tokens, or the last two, where they were last."""
        self._read(tokens)
        for length in range(LONGEST, SHORTEST - 1, -1):
            end = self._ends.get(tuple(tokens[-length:]))
            if end is not None:
                return self._follow(tokens, end, limit)
        return []

    def _read(self, tokens: Sequence[int]) -> None:
        """Note the patterns that end before the last token."""
        for end in range(self._read_to, len(tokens)):
            for length in range(SHORTEST, min(LONGEST, end) + 1):
                self._ends[tuple(tokens[end - length : end])] = end
        self._read_to = len(tokens)

    @staticmethod
    def _follow(tokens: Sequence[int], end: int, limit: int) -> list[int]:
        """Return what stood there; a text that repeats itself is followed round and round."""
        period = len(tokens) - end
        return [tokens[end + i % period] for i in range(limit)]
