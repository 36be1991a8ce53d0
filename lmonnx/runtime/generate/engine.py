"""The loop of every request together: admit, read a piece of a prompt, decode one token of each."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from copy import copy
from types import TracebackType

from lmonnx.errors import InputError, LmonnxError
from lmonnx.runtime.generate.decoder import Decoder
from lmonnx.runtime.generate.request import Chunk, Job
from lmonnx.runtime.generate.scheduler import Scheduler
from lmonnx.runtime.generate.slots import Slots


class Engine:
    """Runs jobs; any number of threads may submit, and whoever waits takes the next step for all.

    It has no thread of its own: nothing runs, and nothing hangs, where nobody waits.
    """

    def __init__(self, decoder: Decoder) -> None:
        cache = decoder.cache
        self._decoder = decoder
        self._slots = Slots(cache)
        self._scheduler = Scheduler(
            self._slots, count=cache.slots, context=cache.length, vocabulary=decoder.vocabulary
        )
        self._live: list[Job] = []
        self._arrived: deque[Job] = deque()
        self._turn = threading.Condition()
        self._stepping = self._closed = False

    def check(self, job: Job) -> None:
        """Refuse a job that cannot run.

        Raises:
            InputError: It can never fit, or the engine is closed.
        """
        if self._closed:
            raise InputError("the model is closed; load the bundle again")
        self._scheduler.check(job)

    def submit(self, job: Job) -> None:
        """Put a job in line.

        Raises:
            InputError: It can never fit, or the engine is closed.
        """
        with self._turn:
            self.check(job)
            self._arrived.append(job)

    def cancel(self, job: Job) -> None:
        """Let a job end before its next step; one that has ended stays as it is."""
        job.is_cancelled = True

    def wait(self, job: Job) -> None:
        """Run the engine until a job has ended.

        Raises:
            LmonnxError: The job has failed.
        """
        self._drive(lambda: job.has_ended)
        _raise(job)

    def chunks(self, job: Job) -> Iterator[Chunk]:
        """Yield a job's chunks as they come; closing the iterator cancels the job.

        The job is in line from the first chunk asked for, so an iterator never begun costs nothing.

        Raises:
            LmonnxError: The job has failed.
        """
        try:
            self.submit(job)
            while True:
                self._drive(lambda: bool(job.news) or job.has_ended)
                while job.news:
                    yield job.news.popleft()
                _raise(job)
                if job.has_ended:
                    return
        finally:
            self.cancel(job)

    def close(self) -> None:
        """End every job, with an error for who waits; wait for the step that is running."""
        with self._turn:
            self._closed = True
            self._turn.wait_for(lambda: not self._stepping)
            self._abandon(InputError("the model was closed before the answer was done"))
            self._turn.notify_all()

    def step(self) -> bool:
        """Run one step for all jobs; return whether there is more to do.

        For the one caller at a time that `wait` and `chunks` choose among themselves.
        """
        self._take_in()
        self._sweep()
        for job in self._scheduler.admit():
            self._join(job)
        self._read()
        self._decode()
        return bool(self._live or self._scheduler.reading or self._scheduler.waiting)

    def _drive(self, ready: Callable[[], bool]) -> None:
        """Step until `ready`, or let another thread step: one at a time."""
        while True:
            with self._turn:
                self._turn.wait_for(lambda: not self._stepping or ready())
                if ready():
                    return
                self._stepping = True
            try:
                self.step()
            except BaseException as error:
                # A step that was cut short leaves rows of which nothing is known any more.
                self._abandon(error)
                if not isinstance(error, Exception):
                    raise
            finally:
                with self._turn:
                    self._stepping = False
                    self._turn.notify_all()

    def _take_in(self) -> None:
        with self._turn:
            self._scheduler.waiting.extend(self._arrived)
            self._arrived.clear()

    def _sweep(self) -> None:
        """Let go of jobs that were cancelled."""
        scheduler = self._scheduler
        for job in [job for job in (*self._live, *scheduler.reading) if job.is_cancelled]:
            self._leave(job)
        if any(job.is_cancelled for job in scheduler.waiting):
            kept = [job for job in scheduler.waiting if not job.is_cancelled]
            scheduler.waiting.clear()
            scheduler.waiting.extend(kept)

    def _read(self) -> None:
        """Run a piece of the prompt whose turn it is."""
        piece = self._scheduler.piece()
        if piece is None:
            return
        job, slot = piece.job, piece.job.slots[0]
        tokens = job.prompt[piece.start : piece.stop]
        logits = self._decoder.extend(
            slot.index, tokens, piece.start, keep=piece.keep, company=None
        )
        slot.tokens += tokens
        if len(tokens) > 1:
            slot.read = len(slot.tokens)
        if piece.is_last:
            self._scheduler.reading.popleft()
            self._join(job)
        with _Blame(job):
            if piece.keep:
                job.read_prompt(logits, piece.stop - piece.keep)
            if piece.is_last:
                job.take(logits[-1:], self._slots)
        self._settle(job)

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
        # Places change as jobs end, so each job's logits are found before any of them goes on.
        places = [[slot.index for slot in job.slots] for job in live]
        for job, where in zip(list(live), places, strict=True):
            chosen = logits[where[0] : where[0] + 1] if len(where) == 1 else logits[where]
            with _Blame(job):
                job.take(chosen, self._slots)
            self._settle(job)

    def _verify(self, job: Job) -> bool:
        """Run a row's next token and what was drafted after it; False where nothing was."""
        slot, row = job.slots[0], job.rows[0]
        length = len(slot.tokens)
        with _Blame(job):
            drafted = list(job.draft(self._decoder.cache.length - length - 1))
            if not drafted:
                return False
            logits = self._decoder.extend(
                slot.index, [row[-1], *drafted], length, keep=1 + len(drafted), company=1
            )
            job.take(logits, self._slots, drafted)
            slot.tokens = row[:-1]  # what was drafted and not taken is overwritten
        self._settle(job)
        return True

    def _join(self, job: Job) -> None:
        for slot in job.slots:
            self._slots.join(slot)
        self._live.append(job)

    def _settle(self, job: Job) -> None:
        if job.has_ended:
            self._leave(job)

    def _leave(self, job: Job) -> None:
        for slot in job.slots:
            self._slots.leave(slot)
        for line in (self._live, self._scheduler.reading):
            if job in line:
                line.remove(job)

    def _abandon(self, error: BaseException) -> None:
        """End every job with an error, and forget what is in the cache."""
        # An interrupt is for the thread that it came to.
        shown = (
            error
            if isinstance(error, Exception)
            else LmonnxError("the model was interrupted in another request; ask again")
        )
        scheduler = self._scheduler
        with self._turn:
            for job in (*self._live, *scheduler.reading, *scheduler.waiting, *self._arrived):
                if not job.has_ended:
                    job.error = shown
            for line in (self._live, scheduler.reading, scheduler.waiting, self._arrived):
                line.clear()
            self._slots.forget()


def _raise(job: Job) -> None:
    """Raise the job's error, if it has one, as this thread's own."""
    if job.error is not None:
        raise copy(job.error) from job.error


class _Blame:
    """What fails inside is this job's own fault: it ends with the error, the others go on."""

    def __init__(self, job: Job) -> None:
        self._job = job

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        if isinstance(error, Exception):
            self._job.error = error
            return True
        return False
