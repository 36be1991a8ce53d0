"""What is asked of the engine, and what it answers: jobs, chunks and completions."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from lmonnx.runtime.generate.decoder import Logits
from lmonnx.runtime.generate.logprobs import TokenLogprob
from lmonnx.runtime.generate.slots import Slot, Slots


@dataclass(frozen=True, slots=True)
class Chunk:
    """What a step adds to a completion; `finish_reason` is set in the last one."""

    text: str
    token_ids: tuple[int, ...]
    finish_reason: str | None = None
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class Completion:
    """One answer to a prompt.

    `text` is without the prompt, stop strings and special tokens; `token_ids` and
    `completion_tokens` count all that was generated, a stop id included. `finish_reason` is
    "stop" or "length". `logprobs` has one entry a generated token, `prompt_logprobs` one a token
    of the prompt (None for the first, which nothing comes before). `score` is the beam's.
    """

    text: str
    token_ids: tuple[int, ...]
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    logprobs: tuple[TokenLogprob, ...] | None = None
    prompt_logprobs: tuple[TokenLogprob | None, ...] | None = None
    score: float | None = None


class Job(ABC):
    """One prompt in the engine, and the `width` slots that it needs at once.

    The engine runs `tokens` of the first slot to its end, hands the last logits to `take`, and
    from then on runs the last token of every slot's row in `rows`.
    """

    width = 1

    def __init__(self, prompt: Sequence[int], *, room: int) -> None:
        """`room` is the most tokens that may follow the prompt."""
        self.prompt = list(prompt)
        self.room = room
        self.rows: list[list[int]] = [list(prompt)]  # every row's known tokens
        self.slots: list[Slot] = []
        self.news: deque[Chunk] = deque()
        self.is_done = False
        self.is_cancelled = False
        self.error: Exception | None = None

    @property
    def reads_from(self) -> int:
        """Place of the first token after which logits are wanted: those before may be reused."""
        return len(self.prompt) - 1

    @property
    def has_ended(self) -> bool:
        """Whether nothing more will come."""
        return self.is_done or self.is_cancelled or self.error is not None

    def read_prompt(self, logits: Logits, start: int) -> None:
        """Take the logits (S, V) after the prompt's tokens from place `start` on."""
        return  # what only continues a prompt needs the last ones, which `take` gets

    @abstractmethod
    def take(self, logits: Logits, slots: Slots, drafted: Sequence[int] = ()) -> None:
        """Take the next logits of every row: (rows, V).

        Where one row ran with tokens drafted for it: (1 + drafted, V), after each of its tokens.
        """

    def draft(self, limit: int) -> Sequence[int]:
        """Return at most `limit` tokens that may come next; the engine runs them all at once."""
        return ()
