"""Sources of one row each: greedy, or drawn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lmonnx.runtime.generate.encoder_decoder import Scores
from lmonnx.runtime.generate.lane import Lane
from lmonnx.runtime.generate.selection import Ids, mask_of
from lmonnx.runtime.generate.source_job import Kind, SourceJob
from lmonnx.runtime.generate.turns import Blame

_ARRAYS = ("_last", "_lengths", "_limits", "_is_free", "_forced")


class SingleLane(Lane):
    """A row a job."""

    def __init__(self, kind: Kind, vocabulary: int) -> None:
        super().__init__(kind)
        self._stops = mask_of(kind.stop_ids, vocabulary)
        self._last, self._lengths, self._limits = np.zeros((3, 0), np.int64)
        self._is_free = np.zeros(0, bool)  # takes the likeliest token that the bans leave

    @property
    def last(self) -> Ids:
        """The last token of each row: (R,)."""
        return self._last

    @property
    def lengths(self) -> Ids:
        """How many tokens were generated for each job: (G,)."""
        return self._lengths

    def add(self, jobs: Sequence[SourceJob]) -> None:
        """Take jobs in behind the others."""
        self.jobs += jobs
        self._append(
            _last=np.array([job.start_id for job in jobs], np.int64),
            _lengths=np.zeros(len(jobs), np.int64),
            _limits=np.array([job.params.limit for job in jobs], np.int64),
            _is_free=np.array([job.is_plain for job in jobs], bool),
            _forced=np.array([job.manner.forced_at for job in jobs], np.int64),
        )

    def join(self, lane: SingleLane) -> None:
        """Take in the jobs of another lane, behind the others."""
        self.jobs += lane.jobs
        self._append(**{name: getattr(lane, name) for name in _ARRAYS})

    def keep(self, places: Sequence[int]) -> None:
        """Go on with the jobs at some places, in that order."""
        self.jobs = [self.jobs[place] for place in places]
        for name in _ARRAYS:
            setattr(self, name, getattr(self, name)[places])

    def advance(self, scores: Scores) -> None:
        """Take every row's likeliest token that is not banned, or what the job picks."""
        logits = scores.logits
        if self.kind.bans:
            logits[:, scores.columns.of(self.kind.bans)] = -np.inf
        if self.kind.late:
            logits[self.short()[:, None], scores.columns.of(self.kind.late)] = -np.inf
        best = logits.argmax(axis=1)
        tokens = scores.columns.tokens(best)
        # NaN is an argmax too: `pick` says what is wrong.
        fine = logits[np.arange(len(best)), best] > -np.inf
        for place in np.flatnonzero(~(fine & self._is_free) | self.must()).tolist():
            job = self.jobs[place]
            forced = job.forced(int(self._lengths[place]))
            if forced is not None:
                tokens[place] = forced
            elif not (fine[place] and job.is_plain):
                with Blame(job):
                    tokens[place] = job.pick(scores.columns.whole(logits[place]))
        self._last, self._lengths = tokens, self._lengths + 1
        ended = self._stops[tokens] | (self._lengths >= self._limits)
        for job, token, is_last in zip(self.jobs, tokens.tolist(), ended.tolist(), strict=True):
            if job.error is None:
                job.accept(token, is_last=is_last)

    def _append(self, **rows: NDArray[Any]) -> None:
        for name, more in rows.items():
            setattr(self, name, np.concatenate([getattr(self, name), more]))
