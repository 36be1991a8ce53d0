"""The sources that are decoded together, and which token each row takes next."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np

from lmonnx.errors import InputError
from lmonnx.runtime.generate.beam_groups import BeamGroups
from lmonnx.runtime.generate.encoder_decoder import Scores
from lmonnx.runtime.generate.logprobs import likeliest, log_softmax
from lmonnx.runtime.generate.rules import Rules
from lmonnx.runtime.generate.selection import Ids
from lmonnx.runtime.generate.shortlist import Columns
from lmonnx.runtime.generate.source_job import Kind, SourceJob
from lmonnx.runtime.generate.turns import Blame
from lmonnx.runtime.numerics import Floats

# Up to so much, a probability can be taken from 1 without a loss of digits.
_EXACT = 0.5


class Lane(ABC):
    """Jobs of one kind, whose rows are a batch: n rows a job, in the order of the jobs."""

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.jobs: list[SourceJob] = []

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


Moves = tuple[Ids, Ids, Ids, Ids]  # sources, targets, from where on they differ, to where


class SingleLane(Lane):
    """A row a job: greedy, or drawn."""

    @property
    def last(self) -> Ids:
        """The last token of each row: (R,)."""
        return np.array(
            [job.generated[-1] if job.generated else job.start_id for job in self.jobs], np.int64
        )

    @property
    def lengths(self) -> Ids:
        """How many tokens were generated for each job: (G,)."""
        return np.array([len(job.generated) for job in self.jobs], np.int64)

    def add(self, jobs: Sequence[SourceJob]) -> None:
        """Take jobs in behind the others."""
        self.jobs += jobs

    def join(self, lane: SingleLane) -> None:
        """Take in the jobs of another lane, behind the others."""
        self.jobs += lane.jobs

    def keep(self, places: Sequence[int]) -> None:
        """Go on with the jobs at some places, in that order."""
        self.jobs = [self.jobs[place] for place in places]

    def advance(self, scores: Scores) -> None:
        """Take every row's likeliest token that is not banned, or what the job picks."""
        logits = scores.logits
        if self.kind.bans:
            logits[:, scores.columns.of(self.kind.bans)] = -np.inf
        if self.kind.late:
            logits[np.ix_(self.short(), scores.columns.of(self.kind.late))] = -np.inf
        best = logits.argmax(axis=1)
        # NaN is an argmax too: `pick` says what is wrong.
        fine = logits[np.arange(len(best)), best] > -np.inf
        tokens = scores.columns.tokens(best)
        for place, (job, token, is_fine) in enumerate(
            zip(self.jobs, tokens.tolist(), fine.tolist(), strict=True)
        ):
            forced = job.forced(len(job.generated))
            if forced is not None:
                job.accept(forced)
            elif is_fine and job.is_plain:
                job.accept(token)
            else:
                with Blame(job):
                    job.accept(job.pick(scores.columns.whole(logits[place])))


class BeamLane(Lane):
    """n rows a job, which compete."""

    def __init__(self, kind: Kind, vocabulary: int) -> None:
        super().__init__(kind)
        self._search = BeamGroups(kind.beams, stop_ids=kind.stop_ids, vocabulary=vocabulary)
        spare = len(kind.bans) + len(kind.late) + kind.spare
        self._top = min(vocabulary, self._search.candidates + spare)
        self._banned, self._late = np.zeros((2, vocabulary), bool)
        self._banned[list(kind.bans)] = True
        self._late[list(kind.late)] = True
        self._row = np.full(vocabulary, -np.inf, np.float32)

    @property
    def top(self) -> int:
        """How many of each row's best tokens the graph must rank."""
        return self._top

    @property
    def last(self) -> Ids:
        """The last token of each row: (R,)."""
        search = self._search
        starts = np.array([job.start_id for job in self.jobs], np.int64)[:, None]
        places = np.maximum(search.lengths - 1, 0)[:, None, None]
        tokens = np.take_along_axis(search.tokens, places, axis=2)[:, :, 0]
        last: Ids = np.where(search.lengths[:, None] > 0, tokens, starts).reshape(-1)
        return last

    @property
    def lengths(self) -> Ids:
        """How many tokens were generated for each job: (G,)."""
        return self._search.lengths

    def add(self, jobs: Sequence[SourceJob]) -> None:
        """Take jobs in behind the others."""
        self.jobs += jobs
        self._search.add([job.params for job in jobs])

    def join(self, lane: BeamLane) -> None:
        """Take in the jobs of another lane of this kind, behind the others."""
        self.jobs += lane.jobs
        self._search.join(lane._search)

    def keep(self, places: Sequence[int]) -> None:
        """Go on with the jobs at some places, in that order."""
        self.jobs = [self.jobs[place] for place in places]
        self._search.keep(places)

    def advance(self, scores: Scores) -> Moves | None:
        """Take every beam's next token; return which rows go on from others."""
        search, count, n = self._search, len(self.jobs), self.kind.beams
        values = scores.top_logprobs.reshape(count, -1, self._top)
        ids = scores.top_ids.reshape(count, -1, self._top)
        logits = scores.logits.reshape(count, -1, scores.logits.shape[-1])
        if values.shape[1] < n:
            values, ids = np.repeat(values, n, axis=1), np.repeat(ids, n, axis=1)
        for place in np.flatnonzero(np.isnan(values).any(axis=(1, 2))).tolist():
            self.jobs[place].error = InputError(
                "the model gave NaN; the bundle is damaged or the text is beyond it"
            )
            values[place], ids[place] = -np.inf, 0
        if self.kind.renormalizes:
            values -= _log_left(logits, values, ids, self.kind.bans, scores.columns)
        if self.kind.bans:
            values[self._banned[ids]] = -np.inf
        if self.kind.late:
            short = self.short()
            values[short] = np.where(self._late[ids[short]], -np.inf, values[short])
        for place, (job, length) in enumerate(zip(self.jobs, search.lengths.tolist(), strict=True)):
            if job.is_ruled or job.forced(length) is not None:
                with Blame(job):
                    self._rule(place, job, scores.columns, logits[place], values[place], ids[place])
        before = search.tokens
        steps = search.advance(values, ids)
        for place in np.flatnonzero(search.done).tolist():
            if self.jobs[place].error is None:
                self.jobs[place].finish(search.best(place))
        return _moves(steps.parents, before, search.lengths)

    def _rule(
        self, place: int, job: SourceJob, columns: Columns, logits: Floats, values: Floats, ids: Ids
    ) -> None:
        """Put what the job's rules leave in the place of its rows' best: values, ids (n, k).

        `logits` are (n, N), or (1, N) where all beams are alike.
        """
        length = int(self._search.lengths[place])
        forced = job.forced(length)
        if forced is not None:
            values[:] = -np.inf
            values[:, 0], ids[:, 0] = 0, forced
            return
        whole = None
        for beam, tokens in enumerate(self._search.tokens[place, :, :length].tolist()):
            rules = job.rules(beam)
            if job.manner.only_lowers and self._rule_best(rules, tokens, values[beam], ids[beam]):
                continue
            if whole is None:
                rows = log_softmax(columns.whole(logits))
                whole = np.broadcast_to(rows, (len(values), rows.shape[1]))
            ruled = rules.apply(whole[beam], tokens)
            ids[beam] = likeliest(ruled, values.shape[1])
            values[beam] = ruled[ids[beam]]

    def _rule_best(self, rules: Rules, tokens: Sequence[int], values: Floats, ids: Ids) -> bool:
        """Put in order what rules that only lower make of a row's best (k,).

        Return False, and change nothing, where one that is not among them may have come before.
        """
        row = self._row
        row[ids] = values
        rules.change(row, tokens)
        after = row[ids]
        row[ids] = -np.inf
        above = np.count_nonzero(after > values[-1])
        if above < self._search.candidates and len(ids) < len(row):
            return False
        order = np.lexsort((ids, -after))
        values[:], ids[:] = after[order], ids[order]
        return True


def make_lane(kind: Kind, vocabulary: int) -> Lane:
    """Return an empty lane for jobs of a kind."""
    return SingleLane(kind) if kind.beams == 1 else BeamLane(kind, vocabulary)


def _log_left(
    logits: Floats, values: Floats, ids: Ids, bans: tuple[int, ...], columns: Columns
) -> Floats:
    """Return the log of the probability that bans leave in each row: (G, n, 1).

    Args:
        logits: (G, n or 1, V).
        values: (G, n, k), the log-probabilities of each row's best.
        ids: (G, n, k), their tokens.
        bans: What must not be chosen.
        columns: What the logits are of.
    """
    highest = np.take_along_axis(logits, columns.at(ids[:, : logits.shape[1], :1]), axis=2)
    best = values[:, : logits.shape[1], :1]
    banned = np.exp(columns.take(logits, bans) - highest + best).sum(axis=2, keepdims=True)
    if (banned < _EXACT).all():
        left: Floats = np.log1p(-banned)
        return left
    kept = log_softmax(columns.whole(logits))
    kept[..., bans] = -np.inf
    return np.logaddexp.reduce(kept, axis=2, keepdims=True)


def _moves(parents: Ids, before: Ids, lengths: Ids) -> Moves | None:
    """Return how to copy the rows of beams that go on from another.

    Args:
        parents: (G, n).
        before: (G, n, T), the tokens of all beams before the step.
        lengths: (G,), how many there are after it, which is what the cache holds.
    """
    n = parents.shape[1]
    groups, beams = np.nonzero(parents != np.arange(n))
    if not len(groups):
        return None
    others = parents[groups, beams]
    differs = before[groups, beams] != before[groups, others]  # (M, T)
    differs &= np.arange(differs.shape[1]) < (lengths[groups] - 1)[:, None]
    # Behind the start token; where nothing differs, nothing is copied.
    first = np.where(differs.any(axis=1), differs.argmax(axis=1), lengths[groups] - 1) + 1
    some = first < lengths[groups]
    sources, targets = groups * n + others, groups * n + beams
    return sources[some], targets[some], first[some], lengths[groups][some]
