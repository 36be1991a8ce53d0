"""Text → token ids; the door to the tokenizers package."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import tokenizers

from lmonnx.bundle.manifest import Side, TextSpec
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
        except Exception as error:  # the package raises plain Exception
            raise BundleError(f"{path} is not a tokenizer ({error}); export again") from error
        _check_templates(path, self._tokenizer.post_processor)
        self._path = path
        # Without a post-processor the fast call forgets which tokens are of a pair's second text.
        fast = self._tokenizer.post_processor is not None
        self._batch = self._tokenizer.encode_batch_fast if fast else self._tokenizer.encode_batch
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._max_length = text.max_length
        self._side = text.source.truncation_side
        for pair in (False, True):
            if text.max_length - self._tokenizer.num_special_tokens_to_add(pair) < 1 + pair:
                raise BundleError(f"{path}: max_length {text.max_length} leaves no room for text")

    def encode(
        self, texts: Sequence[Text], long: Long = Long.WINDOW, *, first: int = 0
    ) -> list[Encoding]:
        """Return the windows of every text, in order; a short text has one.

        Args:
            texts: What to encode.
            long: What to do with a text that is too long.
            first: The `row` of the first text.

        Raises:
            InputError: A text is too long and `long` is ERROR, or it is no valid Unicode.
            BundleError: The tokenizer's own file is at fault.
        """
        found: list[Encoding] = []
        for row, whole in enumerate(self._encode(texts, first), first):
            if len(whole) <= self._max_length:
                found.append(Encoding(row, whole.ids, whole.type_ids))
            else:
                found += self._cut(whole, row, long)
        return found

    def count(self, texts: Sequence[Text]) -> int:
        """Return how many tokens the texts have together, special tokens included."""
        return sum(len(whole) for whole in self._encode(texts, 0))

    def _encode(self, texts: Sequence[Text], first: int) -> list[tokenizers.Encoding]:
        try:
            return self._batch(list(texts))
        except (TypeError, UnicodeEncodeError) as error:
            raise InputError(_complaint(texts, first)) from error
        except Exception as error:  # the package raises plain Exception
            raise BundleError(f"{self._path} is at fault: {error}; export again") from error

    def _cut(self, whole: tokenizers.Encoding, row: int, long: Long) -> list[Encoding]:
        length = len(whole)
        if long is Long.ERROR:
            raise InputError(
                f"text {row} has {length} tokens, the model takes {self._max_length}; shorten it, "
                "or allow long='window' or 'truncate'"
            )
        parts = _parts(whole.sequence_ids)
        room = self._max_length - (length - sum(map(len, parts)))
        if long is Long.TRUNCATE:
            sizes = _longest_first([len(part) for part in parts], room)
            kept = [[self._end(p, size) for p, size in zip(parts, sizes, strict=True)]]
        else:
            kept = self._windows(parts, room)
        ids, types = whole.ids, whole.type_ids
        return [Encoding(row, _keep(ids, parts, k), _keep(types, parts, k)) for k in kept]

    def _windows(self, parts: list[range], room: int) -> list[list[range]]:
        """Slide over the longest part; the other, if any, stands beside every window."""
        longest = max(range(len(parts)), key=lambda i: len(parts[i]))
        shown = [self._end(part, room // 2) for part in parts]
        size = room - sum(len(part) for i, part in enumerate(shown) if i != longest)
        overlap = size // 8
        starts = range(0, max(1, len(parts[longest]) - overlap), size - overlap)
        return [
            [parts[i][s : s + size] if i == longest else part for i, part in enumerate(shown)]
            for s in starts
        ]

    def _end(self, part: range, size: int) -> range:
        """Return `size` tokens of a part, cut on the model's truncation side."""
        return part[:size] if self._side is Side.RIGHT else part[max(0, len(part) - size) :]


def _check_templates(path: Path, processor: Any) -> None:
    """Refuse a template that puts in tokens it does not list: the package would panic at a text."""
    stored = json.loads(processor.__getstate__()) if processor is not None else {}
    for part in stored.get("processors") or [stored]:
        listed = part.get("special_tokens")
        if part.get("type") != "TemplateProcessing" or not isinstance(listed, dict):
            continue
        pieces = [*part.get("single", ()), *part.get("pair", ())]
        used = {piece["SpecialToken"]["id"] for piece in pieces if "SpecialToken" in piece}
        if missing := sorted(used - listed.keys()):
            raise BundleError(
                f"{path}: its template puts in {missing[0]!r:.60}, which its special_tokens lack; "
                "mend the checkpoint's tokenizer.json and export again"
            )


def _parts(sequence_ids: list[int | None]) -> list[range]:
    """Return where the tokens of the one or two texts lie among the special ones."""
    return [
        range(start := sequence_ids.index(text), start + sequence_ids.count(text))
        for text in (0, 1)
        if text in sequence_ids
    ]


def _keep(values: list[int], parts: list[range], kept: list[range]) -> list[int]:
    """Return `values` without what lies in `parts` and not in `kept`."""
    result: list[int] = []
    end = 0
    for part, keep in zip(parts, kept, strict=True):
        result += values[end : part.start] + values[keep.start : keep.stop]
        end = part.stop
    return result + values[end:]


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


def _complaint(texts: Sequence[object], first: int) -> str:
    """Say which text the tokenizer could not read, and why."""
    for row, text in enumerate(texts, first):
        parts = text if isinstance(text, tuple) else (text,)
        for part in parts:
            if not isinstance(part, str):
                return f"text {row} is {type(part).__name__}, must be str (or a pair of them)"
            try:
                part.encode()
            except UnicodeEncodeError as error:
                return (
                    f"text {row} is not valid Unicode at character {error.start}; decode it again"
                )
    return "a text could not be read"
