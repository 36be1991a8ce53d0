"""Texts beside what belongs to them: a second text, or an answer."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, TypeVar

import click

from lmonnx.runtime.tokenizer import Text

Asked = TypeVar("Asked", str, Text, tuple[str, str])


def paired(texts: Iterator[str], pairs: Sequence[str], option: str) -> Iterator[tuple[str, str]]:
    """Put one second text beside every text, or one beside each.

    Raises:
        UsageError: There are several second texts, and not as many as texts.
    """
    if len(pairs) == 1:
        return ((text, pairs[0]) for text in texts)
    held = list(islice(texts, len(pairs) + 1))
    if len(held) != len(pairs):
        more = "more" if len(held) > len(pairs) else str(len(held))
        raise click.UsageError(
            f"{len(pairs)} {option} for {more} texts; give one for each, or one for all"
        )
    return iter(list(zip(held, pairs, strict=True)))


def beside(
    items: Iterable[Asked], answer: Callable[[Iterator[Asked]], Iterable[Any]]
) -> Iterator[tuple[Asked, Any]]:
    """Yield each item with its answer; items are held while the model reads ahead."""
    held: deque[Asked] = deque()

    def remembered() -> Iterator[Asked]:
        for item in items:
            held.append(item)
            yield item

    for found in answer(remembered()):
        yield held.popleft(), found
