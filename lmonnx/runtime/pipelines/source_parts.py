"""Texts → parts that an encoder reads at once: lines, sentences, windows, or what fits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from lmonnx.bundle.manifest import Side
from lmonnx.errors import InputError
from lmonnx.runtime.generate.pair_tokenizer import SourceTokenizer
from lmonnx.runtime.pipelines.languages import Frame
from lmonnx.runtime.pipelines.sentences import fitting, lines, packed, sentences


class Split(StrEnum):
    """What becomes of a text before the model reads it."""

    AUTO = "auto"  # what is too long is cut; else it is read whole
    SENTENCES = "sentences"  # every sentence is read by itself
    NONE = "none"  # whole; what is too long is an error
    TRUNCATE = "truncate"  # whole; what is too long loses its end, as transformers' truncation=True


@dataclass(frozen=True, slots=True)
class Part:
    """What is read at once of the text in `row`: no ids where it is blank.

    `after` stands between its answer and the next part's; None is what the script wants. `fault`
    is why the model cannot read it; it has no ids then.
    """

    row: int
    text: str
    after: str | None
    ids: tuple[int, ...] = ()
    fault: str | None = None


@dataclass(frozen=True, slots=True)
class Refused:
    """A text without an answer: its place in the input, from 0, and what is wrong with it."""

    row: int
    why: str

    def __str__(self) -> str:
        return f"text {self.row} {self.why}"


def all_read(parts: list[Part]) -> list[Part]:
    """Return parts that the model reads all of.

    Raises:
        InputError: One is at fault.
    """
    for part in parts:
        if part.fault:
            raise InputError(str(Refused(part.row, part.fault)))
    return parts


class Cutter:
    """Cuts texts into parts of at most `limit` tokens, with all that a frame puts around them."""

    def __init__(
        self, tokenizer: SourceTokenizer, frame: Frame, *, limit: int, side: Side = Side.RIGHT
    ) -> None:
        """Cut for one request.

        Args:
            tokenizer: Texts → ids.
            frame: What the request puts around every text.
            limit: The most tokens that the model reads.
            side: Which end is cut where a text is truncated.

        Raises:
            InputError: The frame leaves no room for text.
        """
        self._tokenizer, self._frame = tokenizer, frame
        self._limit, self._side = limit, side
        self._around = len(self._encode([""])[0])  # tokens that are not the text's
        if self._around >= limit:
            raise InputError(
                f"the prefix leaves no room: with it are {self._around} tokens around a text, "
                f"the model takes {limit}; shorten it"
            )

    def whole(self, texts: Sequence[str], first: int, *, truncate: bool) -> list[Part]:
        """Return a part a text; `first` is the row of the first. What is too long is at fault."""
        parts = self._made([Part(row, text, None) for row, text in enumerate(texts, first)])
        for place, part in enumerate(parts):
            if len(part.ids) <= self._limit:
                continue
            if truncate:
                parts[place] = replace(part, ids=self._truncated(part.ids))
            else:
                fault = (
                    f"has {len(part.ids)} tokens, the model takes {self._limit}; shorten it, or "
                    "allow split='auto' or 'truncate'"
                )
                parts[place] = replace(part, ids=(), fault=fault)
        return parts

    def by_sentence(self, texts: Sequence[str], first: int, *, longest: int) -> list[Part]:
        """Return lines, and sentences of the lines of more than `longest` tokens."""
        parts = [
            Part(row, line, end if end else None)
            for row, text in enumerate(texts, first)
            for line, end in lines(text)
        ]
        parts = self._refined(self._made(parts), sentences, min(longest, self._limit))
        return self._fitting(parts)

    def by_window(self, texts: Sequence[str], first: int) -> list[Part]:
        """Return texts, and those that are too long as runs of sentences of about equal size."""
        parts = self._made([Part(row, text, None) for row, text in enumerate(texts, first)])
        return self._fitting(self._refined(parts, self._windows, self._limit))

    def _made(self, parts: Sequence[Part]) -> list[Part]:
        """Give parts their ids."""
        wanted = [part for part in parts if part.text.strip()]
        found = iter(self._encode([part.text for part in wanted]))
        return [replace(p, ids=tuple(next(found))) if p.text.strip() else p for p in parts]

    def _refined(
        self, parts: Sequence[Part], cut: Callable[[str], list[str]], longest: int
    ) -> list[Part]:
        """Return parts with those of more than `longest` tokens cut."""
        found: list[Part] = []
        for part in parts:
            if len(part.ids) <= longest:
                found.append(part)
                continue
            texts = [text for piece in cut(part.text) if (text := piece.strip())]
            ends = [*[None] * (len(texts) - 1), part.after]
            found += [Part(part.row, *pair) for pair in zip(texts, ends, strict=True)]
        new = iter(self._made([part for part in found if not part.ids]))
        return [part if part.ids else next(new) for part in found]

    def _fitting(self, parts: Sequence[Part]) -> list[Part]:
        return self._refined(
            parts, lambda text: fitting(text, self._limit, self._count), self._limit
        )

    def _encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Return all that the model reads of each text."""
        frame = self._frame
        framed = [frame.prefix + text for text in texts] if frame.prefix else texts
        return self._tokenizer.encode(framed, before=frame.before, after=frame.after)

    def _count(self, text: str) -> int:
        return len(self._encode([text.strip()])[0])

    def _windows(self, text: str) -> list[str]:
        pieces = sentences(text)
        sizes = [len(ids) - self._around for ids in self._encode(pieces)]
        runs = packed(sizes, self._limit - self._around)
        return ["".join(pieces[run.start : run.stop]) for run in runs]

    def _truncated(self, ids: tuple[int, ...]) -> tuple[int, ...]:
        """Return ids without what is too much of the text; the tokens around it stay."""
        begin, end = self._tokenizer.frame
        head = len(begin) + len(self._frame.before)
        tail = len(ids) - len(end) - len(self._frame.after)
        over = len(ids) - self._limit
        if self._side is Side.LEFT:
            return (*ids[:head], *ids[head + over :])
        return (*ids[: tail - over], *ids[tail:])
