"""What a request needs of the bundle: its text, its vocabulary, the ids that stop it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from lmonnx.runtime.generate.detokenizer import Detokenizer
from lmonnx.runtime.generate.params import SamplingParams
from lmonnx.runtime.generate.rules import Rules
from lmonnx.runtime.generate.stopping import ids_that_stop
from lmonnx.runtime.generate.structured import Constraint


@dataclass(frozen=True, slots=True)
class Voice:
    """The bundle's side of a completion; one serves every request.

    `encode` gives a text's ids without special ones, `decode` the text of ids without theirs.
    """

    vocabulary: int
    stop_ids: tuple[int, ...]
    encode: Callable[[str], list[int]]
    decode: Callable[[Sequence[int]], str]
    constrain: Callable[[SamplingParams], Constraint | None]
    byte_ids: frozenset[int] = field(default=frozenset())
    cleans: bool = False  # the spaces before punctuation

    def stops(self, params: SamplingParams) -> tuple[int, ...]:
        """Return the ids that end this request's completion."""
        return ids_that_stop(params, self.stop_ids)

    def rules(self, params: SamplingParams, prompt: Sequence[int]) -> Rules:
        """Return what the request does to its logits.

        Raises:
            InputError: It names an id outside the vocabulary.
        """
        return Rules(
            params,
            prompt=prompt,
            stop_ids=self.stops(params),
            vocabulary=self.vocabulary,
            encode=self.encode,
        )

    def detokenizer(self, prompt: Sequence[int]) -> Detokenizer:
        """Return what makes text of the tokens after a prompt."""
        return Detokenizer(self.decode, prompt, byte_ids=self.byte_ids, cleans=self.cleans)
