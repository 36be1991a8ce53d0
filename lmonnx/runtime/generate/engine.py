"""The loop of every request together: admit, read some of the prompts, decode one token of each."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence

from lmonnx.runtime.generate.decoder import Decoder
from lmonnx.runtime.generate.request import Job
from lmonnx.runtime.generate.scheduler import LEAST, Piece, Scheduler
from lmonnx.runtime.generate.slots import Slots
from lmonnx.runtime.generate.turns import Blame, Turns


class Engine(Turns[Job]):
    """Runs the jobs of a decoder; see `Turns`."""

    def __init__(self, decoder: Decoder) -> None:
        super().__init__()
        cache = decoder.cache
        self._decoder = decoder
        self._slots = Slots(cache)
        self._scheduler = Scheduler(
            self._slots,
            count=cache.slots,
            context=cache.length,
            vocabulary=decoder.vocabulary,
            head_size=cache.spec.head_size,
        )
        self._live: list[Job] = []

    def step(self) -> bool:
        """Run one step for all jobs; return whether there is more to do."""
        self._scheduler.waiting.extend(self._take_in())
        self._sweep()
        self._scheduler.admit()
        self._begin()
        self._read()
        self._decode()
        return bool(self._live or self._scheduler.reading or self._scheduler.waiting)

    def _check(self, job: Job) -> None:
        self._scheduler.check(job)

    def _forget(self) -> Iterable[Job]:
        scheduler = self._scheduler
        lines = (self._live, scheduler.ready, scheduler.reading, scheduler.waiting)
        jobs = [job for line in lines for job in line]
        for line in lines:
            line.clear()
        self._slots.forget()
        return jobs

    def _sweep(self) -> None:
        """Let go of jobs that were cancelled."""
        scheduler = self._scheduler
        self._settle([*self._live, *scheduler.reading])
        scheduler.waiting = deque(job for job in scheduler.waiting if not job.is_cancelled)

    def _begin(self) -> None:
        """Let jobs go on whose prompts need no reading; what comes after one may be known."""
        jobs = list(self._scheduler.ready)
        self._join(jobs)
        self._scheduler.ready.clear()
        for job in jobs:
            ending = job.slots[0].ending
            if ending is not None:
                with Blame(job):
                    job.take(ending[None], self._slots)
        self._settle(jobs)

    def _read(self) -> None:
        """Run pieces of the prompts whose turn it is."""
        budget = self._scheduler.budget()
        while piece := self._scheduler.piece(budget):
            self._run(piece)
            budget -= max(LEAST, piece.stop - piece.start)
            if budget < LEAST:
                break

    def _run(self, piece: Piece) -> None:
        job, slot = piece.job, piece.job.slots[0]
        tokens = job.prompt[piece.start : piece.stop]
        logits = self._decoder.extend(
            slot.index, tokens, piece.start, keep=piece.keep, company=None
        )
        slot.tokens += tokens
        if len(tokens) > 1:
            slot.read, slot.ending = len(slot.tokens), None
        if piece.is_last:
            if slot.read == len(slot.tokens):
                slot.ending = logits[-1].copy()
            self._join([job])
            self._scheduler.reading.popleft()
        with Blame(job):
            if piece.keep:
                job.read_prompt(logits, piece.stop - piece.keep)
            if piece.is_last:
                job.take(logits[-1:], self._slots)
        self._settle([job])

    def _decode(self) -> None:
        """Run the next token of every live row, or the draft of the only one."""
        live = self._live
        if not live:
            return
        if len(live) == 1 and live[0].width == 1 and self._verify(live[0]):
            return
        rows = [
            (job, row, slot) for job in live for row, slot in zip(job.rows, job.slots, strict=True)
        ]
        rows.sort(key=lambda item: item[2].index)
        tokens = [row[-1] for _, row, _ in rows]
        logits = self._decoder.step(tokens, [len(slot.tokens) for _, _, slot in rows])  # (B, V)
        for (_, _, slot), token in zip(rows, tokens, strict=True):
            slot.tokens.append(token)
        for job in live:
            places = [slot.index for slot in job.slots]
            chosen = logits[places[0] : places[0] + 1] if len(places) == 1 else logits[places]
            with Blame(job):
                job.take(chosen, self._slots)
        self._settle(list(live))

    def _verify(self, job: Job) -> bool:
        """Run a row's next token and what was drafted after it; False where nothing was."""
        slot, row = job.slots[0], job.rows[0]
        length = len(slot.tokens)
        with Blame(job):
            drafted = list(job.draft(self._decoder.cache.length - length - 1))
            if not drafted:
                return False
            logits = self._decoder.extend(
                slot.index, [row[-1], *drafted], length, keep=1 + len(drafted), company=1
            )
            job.take(logits, self._slots, drafted)
            slot.tokens = row[:-1]  # what was drafted and not taken is overwritten
        self._settle([job])
        return True

    def _join(self, jobs: Sequence[Job]) -> None:
        self._live += jobs  # ahead of the copies: see `admit`
        self._slots.join([slot for job in jobs for slot in job.slots])

    def _settle(self, jobs: Sequence[Job]) -> None:
        """Let go of those jobs that have ended."""
        ended = [job for job in jobs if job.has_ended]
        self._slots.leave([slot for job in ended for slot in job.slots])
        for job in ended:
            for line in (self._live, self._scheduler.reading):
                if job in line:
                    line.remove(job)
