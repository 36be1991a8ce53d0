"""The sources that are decoded together, and which token each row takes next."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lmonnx.runtime.generate.encoder_decoder import Scores
from lmonnx.runtime.generate.selection import Ids
from lmonnx.runtime.generate.source_job import Kind, SourceJob

Moves = tuple[Ids, Ids, Ids, Ids]  # sources, targets, from where on they differ, to where


class Lane(ABC):
    """Jobs of one kind, whose rows are a batch: n rows a job, in the order of the jobs."""

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.jobs: list[SourceJob] = []
        self._forced = np.zeros((0, 2), np.int64)  # of each job, its manner's

    @property
    def top(self) -> int:
        """How many of each row's best tokens the graph must rank."""
        return 0

    @property
    @abstractmethod
    def last(self) -> Ids:
        """The last token of each row: (R,)."""

    @property
    @abstractmethod
    def lengths(self) -> Ids:
        """How many tokens were generated for each job: (G,)."""

    def short(self) -> Ids:
        """Return the places of the jobs that have not the tokens yet that they must have."""
        minima = np.array([job.manner.minimum for job in self.jobs], np.int64)
        return np.flatnonzero(self.lengths < minima)

    def must(self) -> NDArray[np.bool_]:
        """Return which jobs must take a forced token next: (G,)."""
        before, at = self._forced.T
        must: NDArray[np.bool_] = (self.lengths < before) | (self.lengths == at)
        return must

    @abstractmethod
    def add(self, jobs: Sequence[SourceJob]) -> None:
        """Take jobs in behind the others."""

    @abstractmethod
    def join(self, lane: Any) -> None:
        """Take in the jobs of another lane of this kind, behind the others."""

    @abstractmethod
    def keep(self, places: Sequence[int]) -> None:
        """Go on with the jobs at some places, in that order."""

    @abstractmethod
    def advance(self, scores: Scores) -> Moves | None:
        """Take every row's next token; return which rows go on from others.

        Jobs that have ended say so; they are still here. Where the beams of a job are all alike,
        at their start, one row of each will do.
        """
