"""Whose turn it is to run the next step: whoever waits runs it, for all."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from copy import copy
from types import TracebackType
from typing import Any, Generic, Protocol, TypeVar

from lmonnx.errors import InputError, LmonnxError

_CLOSED = "the model was closed before the answer was done"


class Waited(Protocol):
    """A job as whoever waits for it sees it; `news` are what has come of it since."""

    news: deque[Any]
    is_cancelled: bool
    error: Exception | None

    @property
    def has_ended(self) -> bool:
        """Whether nothing more will come."""


J = TypeVar("J", bound=Waited)


class Turns(ABC, Generic[J]):
    """Runs jobs step by step; any number of threads may submit, and one at a time steps for all.

    It has no thread of its own: nothing runs, and nothing hangs, where nobody waits.
    """

    def __init__(self) -> None:
        self._arrived: deque[J] = deque()
        self._turn = threading.Condition()
        self._stepping = self._closed = False

    def check(self, job: J) -> None:
        """Refuse a job that cannot run.

        Raises:
            InputError: It can never fit, or the engine is closed.
        """
        if self._closed:
            raise InputError("the model is closed; load the bundle again")
        self._check(job)

    def submit(self, job: J) -> None:
        """Put a job in line.

        Raises:
            InputError: It can never fit, or the engine is closed.
        """
        with self._turn:
            self.check(job)
            self._arrived.append(job)

    def cancel(self, job: J) -> None:
        """Let a job end before its next step; one that has ended stays as it is."""
        job.is_cancelled = True

    def wait(self, job: J) -> None:
        """Run steps until a job has ended.

        Raises:
            LmonnxError: The job has failed.
        """
        self._drive(lambda: job.has_ended)
        _raise(job)

    def chunks(self, job: J) -> Iterator[Any]:
        """Yield a job's news as they come; closing the iterator cancels the job.

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
            self._abandon(InputError(_CLOSED))
            self._turn.notify_all()

    @abstractmethod
    def step(self) -> bool:
        """Run one step for all jobs; return whether there is more to do.

        For the one caller at a time that `wait` and `chunks` choose among themselves.
        """

    @abstractmethod
    def _check(self, job: J) -> None:
        """Refuse a job that can never fit."""

    @abstractmethod
    def _forget(self) -> Iterable[J]:
        """Give up every job that has arrived in a step, and what is known of them; return them."""

    def _take_in(self) -> list[J]:
        """Return the jobs that have arrived since the last step."""
        with self._turn:
            taken = list(self._arrived)
            self._arrived.clear()
        return taken

    def _drive(self, ready: Callable[[], bool]) -> None:
        """Step until `ready`, or let another thread step: one at a time."""
        while True:
            with self._turn:
                self._turn.wait_for(lambda: not self._stepping or ready())
                if ready():
                    return
                self._stepping = True
            try:
                # Whoever closes may wait for long until none of many threads steps.
                if self._closed:
                    self._abandon(InputError(_CLOSED))
                else:
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

    def _abandon(self, error: BaseException) -> None:
        """End every job with an error."""
        # An interrupt is for the thread that it came to.
        shown = (
            error
            if isinstance(error, Exception)
            else LmonnxError("the model was interrupted in another request; ask again")
        )
        with self._turn:
            for job in (*self._arrived, *self._forget()):
                if not job.has_ended:
                    job.error = shown
            self._arrived.clear()


class Blame:
    """What fails inside is this job's own fault: it ends with the error, the others go on."""

    def __init__(self, job: Waited) -> None:
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


def _raise(job: Waited) -> None:
    """Raise the job's error, if it has one, as this thread's own."""
    if job.error is not None:
        raise copy(job.error) from job.error
