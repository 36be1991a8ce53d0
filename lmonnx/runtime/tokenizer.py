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
    MAX = "max"  # answer every window, and take each score's highest
    TRUNCATE = "truncate"  # answer the beginning, as transformers does
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Cut:
    """How text that is too long becomes windows.

    `length` is of a window, in tokens, None the model's own; `stride` is how many tokens two
    neighbours share, None an eighth of the room; `part` says which of a pair slides, None the
    longer. The other stands beside every window: whole if `part` is said, else at most half.
    """

    length: int | None = None
    stride: int | None = None
    part: int | None = None


WHOLE = Cut()


@dataclass(frozen=True, slots=True)
class Spans:
    """Where a window's tokens come from, one entry a token.

    `offsets` are characters of the text, `parts` which text of the pair (None for a special
    token), `words` the tokenizer's words, `places` the token's place in the uncut text.
    """

    offsets: list[tuple[int, int]]
    parts: list[int | None]
    words: list[int | None]
    places: list[int]

    def at(self, places: list[int]) -> Spans:
        """Return the spans of some tokens of an uncut text."""
        parts, words = [self.parts[i] for i in places], [self.words[i] for i in places]
        return Spans([self.offsets[i] for i in places], parts, words, places)


@dataclass(frozen=True, slots=True)
class Encoding:
    """One window of a text: `row` is the text's place in the request."""

    row: int
    ids: list[int]
    type_ids: list[int]
    spans: Spans | None = None


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
        self._cleans = bool(text.source.clean_up_spaces)
        for pair in (False, True):
            if self.room(pair=pair) < 1 + pair:
                raise BundleError(f"{path}: max_length {text.max_length} leaves no room for text")

    def encode(
        self,
        texts: Sequence[Text],
        long: Long = Long.WINDOW,
        *,
        first: int = 0,
        cut: Cut = WHOLE,
        spans: bool = False,
    ) -> list[Encoding]:
        """Return the windows of every text, in order; a short text has one.

        Args:
            texts: What to encode.
            long: What to do with a text that is too long.
            first: The `row` of the first text.
            cut: How long text becomes windows.
            spans: Say where each token comes from, which costs a little time.

        Raises:
            InputError: A text is too long and `long` is ERROR, it is no valid Unicode, or `cut`
                leaves no room.
            BundleError: The tokenizer's own file is at fault.
        """
        limit = min(cut.length or self._max_length, self._max_length)
        found: list[Encoding] = []
        for row, whole in enumerate(self._encode(texts, first, spans=spans), first):
            where = _spans(whole) if spans else None  # once: every access makes the lists anew
            if len(whole) <= limit:
                found.append(Encoding(row, whole.ids, whole.type_ids, where))
            else:
                found += self._cut(whole, where, row, long, cut)
        return found

    def count(self, texts: Sequence[Text]) -> int:
        """Return how many tokens the texts have together, special tokens included."""
        return sum(len(whole) for whole in self._encode(texts, 0))

    def room(self, *, pair: bool = False) -> int:
        """Return how many tokens of text the model takes beside the special ones."""
        return self._max_length - int(self._tokenizer.num_special_tokens_to_add(pair))

    @property
    def subword_prefix(self) -> str:
        """What a piece that continues a word starts with ("##"), "" where nothing marks it."""
        return getattr(self._tokenizer.model, "continuing_subword_prefix", None) or ""

    def token(self, index: int) -> str:
        """Return the token of an id, "" where there is none."""
        return self._tokenizer.id_to_token(index) or ""

    def id_of(self, token: str) -> int | None:
        """Return the id of a token, None where the vocabulary lacks it."""
        index: int | None = self._tokenizer.token_to_id(token)
        return index

    def join(self, tokens: Sequence[str]) -> str:
        """Return the text that tokens spell."""
        decoder = self._tokenizer.decoder
        return str(decoder.decode(list(tokens))) if decoder else " ".join(tokens)

    def decode(self, ids: Sequence[int], *, skip_special: bool = False) -> str:
        """Return the text of ids, as transformers decodes it."""
        text = str(self._tokenizer.decode(list(ids), skip_special_tokens=skip_special))
        return clean_up_spaces(text) if self._cleans else text

    def _encode(
        self, texts: Sequence[Text], first: int, *, spans: bool = False
    ) -> list[tokenizers.Encoding]:
        encode = self._tokenizer.encode_batch if spans else self._batch
        try:
            return encode(list(texts))
        except (TypeError, UnicodeEncodeError) as error:
            raise InputError(_complaint(texts, first)) from error
        except Exception as error:  # the package raises plain Exception
            raise BundleError(f"{self._path} is at fault: {error}; export again") from error

    def _cut(
        self, whole: tokenizers.Encoding, spans: Spans | None, row: int, long: Long, cut: Cut
    ) -> list[Encoding]:
        limit, length = min(cut.length or self._max_length, self._max_length), len(whole)
        if long is Long.ERROR:
            raise InputError(
                f"text {row} has {length} tokens, the model takes {limit}; shorten it, "
                "or allow long='window' or 'truncate'"
            )
        parts = _parts(whole.sequence_ids)
        room = limit - (length - sum(map(len, parts)))
        if long is Long.TRUNCATE and cut.part is None:
            sizes = _longest_first([len(part) for part in parts], room)
            kept = [[self._end(p, size) for p, size in zip(parts, sizes, strict=True)]]
        else:
            kept = self._windows(parts, room, cut, row)[: 1 if long is Long.TRUNCATE else None]
        ids, types = whole.ids, whole.type_ids
        return [
            Encoding(row, [ids[i] for i in at], [types[i] for i in at], spans and spans.at(at))
            for at in (_places(length, parts, ranges) for ranges in kept)
        ]

    def _windows(self, parts: list[range], room: int, cut: Cut, row: int) -> list[list[range]]:
        """Slide over one part; the other, if any, stands beside every window."""
        slides = max(range(len(parts)), key=lambda i: len(parts[i]))
        shown = [self._end(part, room // 2) for part in parts]
        if cut.part is not None and cut.part < len(parts):
            slides, shown = cut.part, parts
        size = room - sum(len(part) for i, part in enumerate(shown) if i != slides)
        overlap = size // 8 if cut.stride is None else cut.stride
        if size < 1 or overlap >= size:
            raise InputError(
                f"text {row}: shorten the other text, which leaves {max(0, size)} tokens of a "
                f"window, or take a smaller stride than {max(0, overlap)}"
            )
        slid, right = parts[slides], self._side is Side.RIGHT
        starts = range(0, max(1, len(slid) - overlap), size - overlap)
        # Where text is cut on the left the first window is its end, as in transformers.
        cuts = (self._end(slid[s:] if right else slid[: len(slid) - s], size) for s in starts)
        return [[piece if i == slides else part for i, part in enumerate(shown)] for piece in cuts]

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


def _places(length: int, parts: list[range], kept: list[range]) -> list[int]:
    """Return 0 … length - 1 without what lies in `parts` and not in `kept`."""
    result: list[int] = []
    end = 0
    for part, keep in zip(parts, kept, strict=True):
        result += [*range(end, part.start), *keep]
        end = part.stop
    return [*result, *range(end, length)]


def _spans(whole: tokenizers.Encoding) -> Spans:
    return Spans(whole.offsets, whole.sequence_ids, whole.word_ids, list(range(len(whole))))


def clean_up_spaces(text: str) -> str:
    """Return text without the spaces before punctuation and within contractions.

    Source:
        transformers, `PreTrainedTokenizerBase.clean_up_tokenization`.
    """
    for spaced, joined in _CLEANED:
        text = text.replace(spaced, joined)
    return text


_CLEANED = (
    (" .", "."), (" ?", "?"), (" !", "!"), (" ,", ","), (" ' ", "'"),
    (" n't", "n't"), (" 'm", "'m"), (" 's", "'s"), (" 've", "'ve"), (" 're", "'re"),
)  # fmt: skip


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
