"""Progress → a bar on standard error, for work of more than a second that somebody watches."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic
from typing import TYPE_CHECKING

from lmonnx.progress import Progress, silent

if TYPE_CHECKING:
    from rich.progress import Progress as Drawing
    from rich.progress import TaskID

PATIENCE = 1.0  # seconds that work may take without a bar
_BETWEEN = 0.1  # seconds between two drawings at least


def is_watched() -> bool:
    """Say whether standard error is a terminal."""
    return sys.stderr is not None and sys.stderr.isatty()


@contextmanager
def bars() -> Iterator[Progress]:
    """Give a callback that draws bars after a second, and clears them at the end of the block."""
    if not is_watched():
        yield silent
        return
    drawn = Bars()
    try:
        yield drawn
    finally:
        drawn.close()


class Bars:
    """A bar for each kind of work that is told of; rich is imported when the first is drawn."""

    def __init__(self) -> None:
        self._next = monotonic() + PATIENCE
        self._drawing: Drawing | None = None
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, what: str, done: int, total: int) -> None:
        """Move the bar of `what`; nothing is drawn in the first second."""
        if monotonic() < self._next:
            return
        if self._drawing is None:
            self._drawing = _start()
        if what not in self._tasks:
            self._tasks[what] = self._drawing.add_task(what, total=total)
        self._drawing.update(self._tasks[what], completed=done, total=total, refresh=True)
        self._next = monotonic() + _BETWEEN

    def close(self) -> None:
        """Clear what was drawn."""
        if self._drawing is not None:
            self._drawing.stop()


def _start() -> Drawing:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as Remaining

    shown = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
    # No thread of its own that redraws: it would take time from what is measured.
    console = Console(stderr=True)
    drawing = Progress(*shown, Remaining(), console=console, transient=True, auto_refresh=False)
    drawing.start()
    return drawing
