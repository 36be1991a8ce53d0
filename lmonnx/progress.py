"""How long work tells how far it is: a callback, silent unless a terminal listens."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")
Progress = Callable[[str, int, int], None]  # what is done, how many, of how many


def silent(what: str, done: int, total: int) -> None:
    """Tell nobody."""


def track(items: Sequence[T], what: str, progress: Progress) -> Iterator[T]:
    """Yield `items`, telling after each how many are done."""
    progress(what, 0, len(items))
    for done, item in enumerate(items, 1):
        yield item
        progress(what, done, len(items))
