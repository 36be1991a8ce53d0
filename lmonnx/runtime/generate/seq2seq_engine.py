"""The loop of an encoder-decoder: admit sources, decode one token of each row, let go what ends."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

import numpy as np

from lmonnx.errors import InputError
from lmonnx.runtime.generate.encoder_decoder import EncoderDecoder
from lmonnx.runtime.generate.lane import Lane
from lmonnx.runtime.generate.lanes import make_lane
from lmonnx.runtime.generate.source_job import Kind, SourceJob
from lmonnx.runtime.generate.source_keys import Sources
from lmonnx.runtime.generate.turns import Turns

# The keys and values of the sources of a batch take at most this, if they are several.
SOURCE_BYTES = 2**26
# Sources join a batch that runs when so large a part of its rows is free, or all that wait fit.
FREE_PART = 4


class Seq2SeqEngine(Turns[SourceJob]):
    """Runs the jobs of an encoder-decoder; see `Turns`.

    Jobs of one kind are decoded together, and come and go between any two steps; a job of another
    kind waits until the batch has run out.
    """

    def __init__(self, model: EncoderDecoder, *, positions: int) -> None:
        """Run a model whose sources have at most `positions` tokens."""
        super().__init__()
        self._model, self._positions = model, positions
        self._tokens = SOURCE_BYTES // model.cache.token_bytes
        self._rows, self._context = model.cache.slots, model.cache.length
        self._waiting: deque[SourceJob] = deque()
        self._lane: Lane | None = None

    def step(self) -> bool:
        """Run one step for all jobs; return whether there is more to do."""
        self._waiting.extend(self._take_in())
        while self._waiting and self._waiting[0].has_ended:  # was cancelled before its turn
            self._waiting.popleft()
        self._leave()
        self._admit()
        self._decode()
        self._leave()
        return bool(self._waiting or self._lane)

    def _check(self, job: SourceJob) -> None:
        length, limit = len(job.source), job.params.limit
        if not length:
            raise InputError("the source has no tokens; give some text")
        if length > self._positions:
            raise InputError(
                f"the source has {length} tokens, the model reads {self._positions}; shorten it"
            )
        if 1 + limit > self._context:
            raise InputError(
                f"max_new_tokens is {limit}, the model has room for {self._context - 1}; "
                "ask for fewer"
            )
        if job.width > self._rows:
            raise InputError(
                f"num_beams is {job.width}, the cache has {self._rows} slots; "
                f"load the bundle with slots={job.width}, or ask for fewer beams"
            )

    def _forget(self) -> Iterable[SourceJob]:
        jobs = [*self._waiting, *(self._lane.jobs if self._lane else ())]
        self._waiting.clear()
        self._stop()
        return jobs

    def _stop(self) -> None:
        self._lane = None
        self._model.clear()

    def _admit(self) -> None:
        """Let sources join that fit, unless waiting a little lets more join at once."""
        if not self._waiting:
            return
        lane = self._lane
        kind = lane.kind if lane else self._waiting[0].kind
        most = min(self._rows // kind.beams, self._model.sources.most)
        live = len(lane.jobs) if lane else 0
        line = self._next(kind, most - live)
        few = len(line) * FREE_PART < most and len(line) < len(self._waiting)
        if not line or (live and few):
            return
        begun = make_lane(kind, self._model.vocabulary)
        sources = self._model.read(
            [job.source for job in line], stop_ids=kind.stop_ids, top=begun.top
        )
        begun.add(line)
        self._begin(begun, sources, live * kind.beams)
        if lane is None:
            self._lane = begun
        else:
            lane.join(begun)
        for _ in line:  # only now: what fails before must find them here
            self._waiting.popleft()
        self._leave()  # whoever has ended with the first token

    def _begin(self, lane: Lane, sources: Sources, first: int) -> None:
        """Run each job's first token, one row for all its beams, in the rows from `first` on."""
        count, beams = len(lane.jobs), lane.kind.beams
        starts = np.array([job.start_id for job in lane.jobs], np.int64)
        none = np.zeros(count, np.int64)
        lane.advance(self._model.step(starts, none, sources, lane.top, first=first))
        if beams > 1:
            self._model.cache.spread(first, count, beams)

    def _next(self, kind: Kind, most: int) -> list[SourceJob]:
        """Return the first jobs in line of a kind, at most so many, whose sources fit beside."""
        longest = self._model.sources.padded_length
        found: list[SourceJob] = []
        live = len(self._lane.jobs) if self._lane else 0
        for job in self._waiting:
            longest = max(longest, len(job.source))
            count = live + len(found) + 1
            if (
                len(found) == most
                or job.kind != kind
                or (count > 1 and count * longest > self._tokens)
            ):
                break
            found.append(job)
        return found

    def _decode(self) -> None:
        """Run the next token of every row."""
        lane = self._lane
        if lane is None:
            return
        lengths = np.repeat(lane.lengths, lane.kind.beams)
        scores = self._model.step(lane.last, lengths, self._model.sources.held, lane.top)
        moves = lane.advance(scores)
        if moves is not None:
            self._model.cache.copy_many(*moves)

    def _leave(self) -> None:
        """Let go of jobs that have ended; the last ones take the places that are free."""
        lane = self._lane
        if lane is None:
            return
        order = list(range(len(lane.jobs)))
        for place in reversed([i for i, job in enumerate(lane.jobs) if job.has_ended]):
            order[place] = order[-1]
            order.pop()
        if len(order) == len(lane.jobs):
            return
        if not order:
            self._stop()
            return
        moved = [(source, place) for place, source in enumerate(order) if source != place]
        if moved:
            self._move(lane, np.array(moved, np.int64))
        origins, targets = [m[0] for m in moved], [m[1] for m in moved]
        self._model.keep(origins, targets, len(order))
        lane.keep(order)

    def _move(self, lane: Lane, moved: np.ndarray[tuple[int, int], np.dtype[np.int64]]) -> None:
        """Copy the cache's rows of jobs to their new places: (M, 2), from and to."""
        beams = np.arange(lane.kind.beams)
        sources, targets = ((side[:, None] * len(beams) + beams).ravel() for side in moved.T)
        stops = np.repeat(lane.lengths[moved[:, 0]], len(beams))
        self._model.cache.copy_many(sources, targets, np.zeros_like(stops), stops)
