"""The beam search of one request, where a step gives it the logits of its beams alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lmonnx.runtime.generate.beam_groups import BeamGroups
from lmonnx.runtime.generate.logprobs import likeliest
from lmonnx.runtime.generate.params import SamplingParams
from lmonnx.runtime.generate.selection import Ids
from lmonnx.runtime.numerics import Floats


@dataclass(frozen=True, slots=True)
class Step:
    """The next beams: beam i goes on from beam `parents[i]` with `tokens[i]`; each (beams,)."""

    parents: Ids
    tokens: Ids


class BeamSearch:
    """The beams of one request; see `BeamGroups`.

    Call `advance` (or `advance_top`) with the running beams' log-probabilities until `is_done`,
    each time moving the cache's rows to the step's parents.
    """

    def __init__(
        self,
        params: SamplingParams,
        *,
        stop_ids: Sequence[int],
        vocabulary: int,
    ) -> None:
        """Start with the prompt.

        Args:
            params: `num_beams`, `n`, `max_new_tokens`, `length_penalty` and `early_stopping`.
            stop_ids: All that end a sequence (see `stopping.ids_that_stop`).
            vocabulary: V, the width of the logits.
        """
        self._search = BeamGroups(params.num_beams, stop_ids=stop_ids, vocabulary=vocabulary)
        self._search.add([params])
        self.candidates = self._search.candidates

    @property
    def is_done(self) -> bool:
        """Whether no beam can come among the best any more."""
        return bool(self._search.done[0])

    @property
    def sequences(self) -> list[tuple[int, ...]]:
        """The tokens of the running beams, best first."""
        length = self._search.lengths[0]
        return [tuple(row) for row in self._search.tokens[0, :, :length].tolist()]

    def advance(self, logprobs: Floats) -> Step:
        """Take the running beams' next tokens.

        Args:
            logprobs: (beams, V) float32, the log-softmax after the rules; (1, V) while all beams
                are alike.
        """
        ids = np.array([likeliest(row, self.candidates) for row in logprobs], np.int64)
        return self.advance_top(np.take_along_axis(logprobs, ids, axis=-1), ids)

    def advance_top(self, values: Floats, ids: Ids) -> Step:
        """Take the running beams' next tokens from each one's best.

        Args:
            values: (beams, `candidates`) float32 log-probabilities, best first; or one row.
            ids: Their tokens, int64; of equal values the lower id first.
        """
        shape = (1, self._search.beams, values.shape[-1])
        steps = self._search.advance(np.broadcast_to(values, shape), np.broadcast_to(ids, shape))
        return Step(steps.parents[0], steps.tokens[0])

    def best(self) -> list[tuple[list[int], float]]:
        """Return the n best (tokens, score), best first; a stop id is the last of its tokens.

        Raises:
            InputError: There is none, see `BeamGroups.best`.
        """
        return self._search.best(0)
