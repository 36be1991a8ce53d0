"""A text that is only read: how likely its tokens are, and what may come next."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lmonnx.runtime.generate.decoder import Logits
from lmonnx.runtime.generate.request import Job
from lmonnx.runtime.generate.slots import Slots


class Scored(Job):
    """Read tokens; keep the log-probability of those from place `first` on, and the last logits."""

    def __init__(self, tokens: Sequence[int], *, first: int) -> None:
        super().__init__(tokens, room=0)
        self._first = first
        self._found: list[NDArray[np.float32]] = []
        self.last: Logits = np.zeros(0, np.float32)

    @property
    def reads_from(self) -> int:
        """Place of the first token after which logits are wanted."""
        return min(self._first, len(self.prompt)) - 1

    @property
    def logprobs(self) -> NDArray[np.float32]:
        """The natural log-probability of each token from `first` on, given those before it."""
        return np.concatenate(self._found) if self._found else np.zeros(0, np.float32)

    def read_prompt(self, logits: Logits, start: int) -> None:
        """Note the log-probability of each token that comes next."""
        targets = np.array(self.prompt[start + 1 : start + 1 + len(logits)], np.int64)
        rows = logits[: len(targets)]
        if len(targets):
            self._found.append(chosen_logprobs(rows, targets))

    def take(self, logits: Logits, slots: Slots, drafted: Sequence[int] = ()) -> None:
        """Keep the last logits; that is all."""
        self.last = logits[-1].copy()
        self.is_done = True


def chosen_logprobs(logits: Logits, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return log softmax of one token a row: logits (S, V), tokens (S,) → (S,)."""
    highest = logits.max(axis=1)
    total = np.exp(logits - highest[:, None]).sum(axis=1, dtype=np.float64)
    chosen = np.take_along_axis(logits, tokens[:, None], axis=1)[:, 0]
    result: NDArray[np.float32] = (chosen - highest - np.log(total)).astype(np.float32)
    return result
