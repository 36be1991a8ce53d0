"""Batches → outputs, several at once: a session of one thread that every core runs a batch with.

A product of a batch's few hundred rows is too small to be worth dividing: two cores that each run
their own batch do more than two that share one (docs/decisions/0009).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Lock

from lmonnx.runtime.batch import Batch
from lmonnx.runtime.session import Session


class SideBySide:
    """Run batches in `threads` threads; the session is made by `opened` when first needed."""

    def __init__(self, opened: Callable[[], Session], threads: int) -> None:
        self._opened = opened
        self._threads = threads
        self._session: Session | None = None
        self._lock = Lock()

    def run(self, batches: Iterator[Batch], work: Callable[[Session, Batch], None]) -> None:
        """Give every batch to `work`, which threads call at once; its first error ends all."""
        with self._lock:
            session = self._session = self._session or self._opened()
        lock, over = Lock(), False

        def pull() -> None:
            nonlocal over
            try:
                while True:
                    with lock:
                        batch = None if over else next(batches, None)
                    if batch is None:
                        return
                    work(session, batch)
            except BaseException:
                over = True
                raise

        with ThreadPoolExecutor(self._threads) as pool:
            started = [pool.submit(pull) for _ in range(self._threads)]
            try:
                for thread in started:
                    thread.result()
            finally:
                over = True
