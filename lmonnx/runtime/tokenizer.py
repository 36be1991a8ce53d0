"""Text → token ids; the door to the tokenizers package."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import tokenizers

from lmonnx.bundle.manifest import TextSpec
from lmonnx.errors import BundleError, InputError

Text = str | tuple[str, str]


class Long(StrEnum):
    """What to do with text that is longer than the model's `max_length`."""

    WINDOW = "window"  # answer every window, and take the mean
    TRUNCATE = "truncate"  # answer the beginning, as transformers does
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Encoding:
    """One window of a text: `row` is the text's place in the request."""

    row: int
    ids: list[int]
    type_ids: list[int]


class Tokenizer:
    """A bundle's tokenizer: special tokens added, nothing padded; safe to share by threads."""

    def __init__(self, path: Path, text: TextSpec) -> None:
        try:
            self._tokenizer = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # noqa: BLE001 - the package raises plain Exception
            raise BundleError(f"{path} is not a tokenizer ({error}); export again") from error
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._max_length = text.max_length
        self._side = text.source.truncation_side.value
        for pair in (False, True):
            if self._room(pair=pair) < 1 + pair:
                raise BundleError(f"{path}: max_length {text.max_length} leaves no room for text")

    def encode(self, texts: Sequence[Text], long: Long = Long.WINDOW) -> list[Encoding]:
        """Return the windows of every text, in order; a short text has one.

        Raises:
            InputError: A text is too long and `long` is ERROR, or it is no valid Unicode.
        """
        try:
            encodings = self._tokenizer.encode_batch_fast(list(texts))
        except (TypeError, UnicodeEncodeError) as error:
            raise InputError(_complaint(texts)) from error
        found: list[Encoding] = []
        for row, encoding in enumerate(encodings):
            whole = len(encoding) <= self._max_length
            parts = [encoding] if whole else self._cut(texts[row], row, len(encoding), long)
            found += [Encoding(row, part.ids, part.type_ids) for part in parts]
        return found

    def count(self, texts: Sequence[Text]) -> int:
        """Return how many tokens the texts have together, special tokens included."""
        return sum(len(encoding) for encoding in self._tokenizer.encode_batch_fast(list(texts)))

    def _room(self, *, pair: bool) -> int:
        return self._max_length - self._tokenizer.num_special_tokens_to_add(pair)

    def _cut(self, text: Text, row: int, length: int, long: Long) -> list[Any]:
        if long is Long.ERROR:
            raise InputError(
                f"text {row} has {length} tokens, the model takes {self._max_length}; shorten it, "
                "or allow long='window' or 'truncate'"
            )
        pieces = [text] if isinstance(text, str) else list(text)
        plain = self._tokenizer.encode_batch(pieces, add_special_tokens=False)
        room = self._room(pair=len(plain) == 2)
        if long is Long.TRUNCATE:
            for part, size in zip(plain, _longest_first([len(p) for p in plain], room), strict=True):
                part.truncate(size, direction=self._side)
            return [self._tokenizer.post_process(*plain)]
        return self._windows(plain, room)

    def _windows(self, plain: list[Any], room: int) -> list[Any]:
        """Slide over the longest part; the other, if any, stands beside every window."""
        longest = max(range(len(plain)), key=lambda i: len(plain[i]))
        for i, part in enumerate(plain):
            if i != longest:
                part.truncate(min(len(part), room // 2), direction=self._side)
                room -= len(part)
        plain[longest].truncate(room, stride=room // 8)
        parts = [plain[longest], *plain[longest].overflowing]
        return [
            self._tokenizer.post_process(*(p if i == longest else q for i, q in enumerate(plain)))
            for p in parts
        ]


def _longest_first(lengths: list[int], room: int) -> list[int]:
    """Return how much of one or two parts stays when the longer loses its end first."""
    if len(lengths) == 1:
        return [room]
    short, long = sorted(lengths)
    long = min(long, max(short, room - short))
    if short + long > room:
        short = room // 2
        long = room - short
    return [short, long] if lengths[0] <= lengths[1] else [long, short]


def _complaint(texts: Sequence[Text]) -> str:
    """Say which text the tokenizer could not read, and why."""
    for row, text in enumerate(texts):
        parts = text if isinstance(text, tuple) else (text,)
        for part in parts:
            if not isinstance(part, str):
                return f"text {row} is {type(part).__name__}, must be str (or a pair of them)"
            try:
                part.encode()
            except UnicodeEncodeError as error:
                return f"text {row} is not valid Unicode at character {error.start}; decode it again"
    return "a text could not be read"
