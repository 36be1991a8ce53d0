"""Beam searches that are decoded together: n rows each, which compete."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lmonnx.errors import InputError
from lmonnx.runtime.generate.beam_groups import BeamGroups
from lmonnx.runtime.generate.beam_rows import BeamRows
from lmonnx.runtime.generate.encoder_decoder import Scores
from lmonnx.runtime.generate.lane import Lane, Moves
from lmonnx.runtime.generate.logprobs import likeliest, log_softmax
from lmonnx.runtime.generate.rules import Rules
from lmonnx.runtime.generate.selection import Ids, mask_of
from lmonnx.runtime.generate.shortlist import Columns
from lmonnx.runtime.generate.source_job import Kind, SourceJob
from lmonnx.runtime.generate.turns import Blame
from lmonnx.runtime.numerics import Floats

# Up to so much, a probability can be taken from 1 without a loss of digits.
_EXACT = 0.5


class BeamLane(Lane):
    """n rows a job, which compete."""

    def __init__(self, kind: Kind, vocabulary: int) -> None:
        super().__init__(kind)
        self._search = BeamGroups(kind.beams, stop_ids=kind.stop_ids, vocabulary=vocabulary)
        self._rows = BeamRows(kind.beams)
        spare = len(kind.bans) + len(kind.late) + kind.spare
        self._top = min(vocabulary, self._search.candidates + spare)
        self._banned, self._late = mask_of(kind.bans, vocabulary), mask_of(kind.late, vocabulary)
        self._row = np.full(vocabulary, -np.inf, np.float32)
        self._is_free = np.zeros(0, bool)  # no rule but the bans

    @property
    def top(self) -> int:
        """How many of each row's best tokens the graph must rank."""
        return self._top

    @property
    def last(self) -> Ids:
        """The last token of each row: (R,)."""
        return self._rows.last.reshape(-1)

    @property
    def lengths(self) -> Ids:
        """How many tokens were generated for each job: (G,)."""
        return self._search.lengths

    def add(self, jobs: Sequence[SourceJob]) -> None:
        """Take jobs in behind the others."""
        self.jobs += jobs
        self._search.add([job.params for job in jobs])
        self._rows.add([job.start_id for job in jobs])
        free = np.array([not job.is_ruled for job in jobs], bool)
        self._is_free = np.concatenate([self._is_free, free])
        forced = np.array([job.manner.forced_at for job in jobs], np.int64)
        self._forced = np.concatenate([self._forced, forced])

    def join(self, lane: BeamLane) -> None:
        """Take in the jobs of another lane of this kind, behind the others."""
        self.jobs += lane.jobs
        self._search.join(lane._search)
        self._rows.join(lane._rows)
        self._is_free = np.concatenate([self._is_free, lane._is_free])
        self._forced = np.concatenate([self._forced, lane._forced])

    def keep(self, places: Sequence[int]) -> None:
        """Go on with the jobs at some places, in that order."""
        self.jobs = [self.jobs[place] for place in places]
        self._search.keep(places)
        self._rows.keep(places)
        self._is_free, self._forced = self._is_free[places], self._forced[places]

    def advance(self, scores: Scores) -> Moves | None:
        """Take every beam's next token; return which rows go on from others."""
        search, count, n = self._search, len(self.jobs), self.kind.beams
        values = scores.top_logprobs.reshape(count, -1, self._top)
        ids = scores.top_ids.reshape(count, -1, self._top)
        logits = scores.logits.reshape(count, -1, scores.logits.shape[-1])
        if values.shape[1] < n:
            values, ids = np.repeat(values, n, axis=1), np.repeat(ids, n, axis=1)
        if np.isnan(values.sum()):
            self._drop_nan(values, ids)
        if self.kind.renormalizes:
            values -= _log_left(logits, values, ids, self.kind.bans, scores.columns)
        if self.kind.bans:
            values[self._banned[ids]] = -np.inf
        if self.kind.late:
            short = self.short()
            values[short] = np.where(self._late[ids[short]], -np.inf, values[short])
        values, ids = self._rows.ranked(values, ids)
        for place in np.flatnonzero(~self._is_free | self.must()).tolist():
            job = self.jobs[place]
            with Blame(job):
                self._rule(place, job, scores.columns, logits[place], values[place], ids[place])
        before = search.tokens
        steps = search.advance(values, ids)
        for place in np.flatnonzero(search.done).tolist():
            job = self.jobs[place]
            if job.error is None:
                with Blame(job):
                    job.finish(search.best(place))
        return self._rows.follow(steps, before, search.lengths)

    def _drop_nan(self, values: Floats, ids: Ids) -> None:
        """End the jobs that have NaN among their best: values, ids (G, n, k)."""
        for place in np.flatnonzero(np.isnan(values).any(axis=(1, 2))).tolist():
            self.jobs[place].error = InputError(
                "the model gave NaN; the bundle is damaged or the text is beyond it"
            )
            values[place], ids[place] = -np.inf, 0

    def _rule(
        self, place: int, job: SourceJob, columns: Columns, logits: Floats, values: Floats, ids: Ids
    ) -> None:
        """Put what the job's rules leave in the place of its rows' best: values, ids (n, k).

        `logits` are (n, N) as the rows lie, or (1, N) where all beams are alike.
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
            ruled = rules.apply(whole[self._rows.of(place)[beam]], tokens)
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
