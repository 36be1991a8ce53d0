"""One side's tokenizer of an encoder-decoder: texts ↔ the model's ids, nothing put around them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from lmonnx.bundle.manifest import TextSpec, TokenizerSpec
from lmonnx.errors import BundleError
from lmonnx.runtime.generate.piece_rules import HIDDEN, PieceRules
from lmonnx.runtime.generate.prompt_tokenizer import PromptTokenizer
from lmonnx.runtime.generate.sentencepiece_text import Normalizer

_BYTE = re.compile("<0x([0-9A-F]{2})>")


class PieceIds(PromptTokenizer):
    """A tokenizer whose file says all."""

    end_once = False

    def __init__(self, folder: Path, spec: TokenizerSpec, max_length: int) -> None:
        super().__init__(folder / spec.file, TextSpec(source=spec, max_length=max_length))

    @cached_property
    def frame(self) -> tuple[list[int], list[int]]:
        """The special tokens before and after every text."""
        (whole,) = self._encode(["a"], 0)
        special = whole.special_tokens_mask
        begin = special.index(0) if 0 in special else 0
        end = special[begin:].index(1) + begin if 1 in special[begin:] else len(special)
        return whole.ids[:begin], whole.ids[end:]

    def many(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of many texts.

        Raises:
            InputError: A text is no str, or no valid Unicode.
        """
        begin, end = (len(part) for part in self.frame)
        return [whole.ids[begin : len(whole) - end] for whole in self._encode(texts, 0)]

    def framed(
        self, texts: Sequence[str], before: Sequence[int] = (), after: Sequence[int] = ()
    ) -> list[list[int]]:
        """Return the ids of many texts between their special tokens, those between two others'."""
        begin, end = self.frame
        found: list[list[int]] = []
        for ids in self.many(texts):
            ended = self.end_once and ids[-1:] == end
            found.append([*before, *begin, *ids, *(() if ended else end), *after])
        return found

    def within(self, text: str) -> list[int]:
        """Return the ids of a part of a text."""
        return self.many([text])[0]

    def strings(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """Return the text of every row, without special tokens; no space is cleaned up."""
        found: list[str] = self._tokenizer.decode_batch(
            [list(row) for row in rows], skip_special_tokens=True
        )
        return found


class RuledPieceIds(PieceIds):
    """A tokenizer with `PieceRules` beside it."""

    def __init__(self, folder: Path, spec: TokenizerSpec, max_length: int) -> None:
        super().__init__(folder, spec, max_length)
        rules = self._rules = PieceRules.from_file(folder / str(spec.id_map))
        self.end_once = rules.end_once
        longest_first = sorted(rules.tokens, key=len, reverse=True)
        self._tokens = re.compile("(" + "|".join(map(re.escape, longest_first)) + ")")
        try:
            self._normalizer = Normalizer(
                rules.charsmap, dummy_prefix=rules.dummy_prefix, squeeze=rules.squeeze
            )
        except (ValueError, IndexError) as error:
            raise BundleError(f"{folder / str(spec.id_map)}: {error}; export again") from error
        self._plain = _without_tokens(self._tokenizer)
        added = self._tokenizer.get_added_tokens_decoder()
        self._spellings = {index: b"" for index, token in added.items() if token.special}

    def many(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of many texts.

        Raises:
            InputError: A text is no str, or no valid Unicode.
        """
        self._check(texts)
        rows = [list(self._parts(text)) for text in texts]
        normal = [part for row in rows for part in row if isinstance(part, str)]
        spelled = iter(self._spell(normal))
        found: list[list[int]] = []
        for row in rows:
            ids: list[int] = []
            for part in row:
                ids += next(spelled) if isinstance(part, str) else (part,)
            found.append(ids)
        return found

    def strings(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """Return the text of every row, without special tokens and spaces at its ends."""
        first = self._rules.first_byte
        if first is not None:
            known = range(first, first + 256)
            spelled = (bytes(i - first for i in row if i in known) for row in rows)
            return [data.decode(errors="ignore") for data in spelled]
        if self._rules.byte_fallback:
            spelled = (b"".join(map(self._spelling, row)) for row in rows)
            return [_readable(data).strip() for data in spelled]
        return [text.strip() for text in super().strings(rows)]

    def _spelling(self, index: int) -> bytes:
        """Return the bytes that an id stands for, none where it is a special token."""
        spelled = self._spellings.get(index)
        if spelled is None:
            piece = self.token(index).removeprefix(HIDDEN)
            byte = _BYTE.fullmatch(piece)
            spelled = bytes([int(byte[1], 16)]) if byte else piece.replace("▁", " ").encode()
            self._spellings[index] = spelled
        return spelled

    def _check(self, texts: Sequence[str]) -> None:
        """Refuse what is no text, as the tokenizer itself does."""
        if not all(type(text) is str and text.isascii() for text in texts):
            try:
                for text in texts:
                    text.encode()
            except (AttributeError, UnicodeEncodeError):
                self._encode(texts, 0)

    def _parts(self, text: str) -> Iterator[int | str]:
        """Yield a text's tokens, and what lies between them as SentencePiece cuts it.

        Source:
            transformers, `PreTrainedTokenizer.tokenize`; `MarianTokenizer.remove_language_code`.
        """
        rules = self._rules
        parts = self._tokens.split(text) if rules.tokens else [text]
        for at in range(1, len(parts), 2):
            sides = rules.strips.get(parts[at], "")
            if "r" in sides:
                parts[at + 1] = parts[at + 1].lstrip()
            if "l" in sides:
                parts[at - 1] = parts[at - 1].rstrip()
        for at, part in enumerate(parts):
            if at % 2:
                yield rules.tokens[part]
                continue
            rest = part
            if rules.codes and part.startswith(">>") and "<<" in part:
                end = part.index("<<") + 2
                yield self._known(part[:end])
                rest = part[end:]
            if rest:
                yield rest if rules.first_byte is not None else self._normalizer.apply(rest)

    def _spell(self, parts: Sequence[str]) -> list[list[int]]:
        """Return the ids of normalized parts."""
        first = self._rules.first_byte
        if first is not None:
            return [[byte + first for byte in part.encode()] for part in parts]
        wholes = self._plain.encode_batch_fast(list(parts), add_special_tokens=False)
        unknown, size = self._rules.unknown_id, self._rules.size
        found: list[list[int]] = []
        for part, whole in zip(parts, wholes, strict=True):
            ids = whole.ids
            if ids and (unknown in ids or max(ids) >= size):
                ids = self._look_up(part)
            found.append(ids)
        return found

    def _look_up(self, part: str) -> list[int]:
        """Return the ids of a part that holds what SentencePiece, or the model, does not know."""
        whole = self._plain.encode(part, add_special_tokens=False)
        unknown, size = self._rules.unknown_id, self._rules.size
        found: list[int] = []
        for index, (begin, end) in zip(whole.ids, whole.offsets, strict=True):
            if index != unknown:
                found.append(index if index < size else unknown)
            elif self._rules.byte_fallback:
                found += [self._known(f"<0x{byte:02X}>") for byte in part[begin:end].encode()]
            else:
                found.append(self._known(part[begin:end]))
        return found

    def _known(self, piece: str) -> int:
        """Return the model's id of a piece that SentencePiece does not have."""
        index = self._plain.token_to_id(HIDDEN + piece)
        return self._rules.unknown_id if index is None else int(index)


def open_ids(folder: Path, spec: TokenizerSpec, max_length: int) -> PieceIds:
    """Return one side's tokenizer.

    Raises:
        BundleError: A file is no tokenizer, or no rules of one.
    """
    return (RuledPieceIds if spec.id_map else PieceIds)(folder, spec, max_length)


def _readable(data: bytes) -> str:
    """Return the text of bytes, U+FFFD for each that is of no character.

    Source:
        google/sentencepiece, `SentencePieceProcessor::Decode`.
    """
    found: list[str] = []
    while data:
        try:
            found.append(data.decode())
            break
        except UnicodeDecodeError as error:
            found += [data[: error.start].decode(), "\ufffd"]
            data = data[error.start + 1 :]
    return "".join(found)


def _without_tokens(tokenizer: Any) -> Any:
    """Return a copy that finds no special token in a text, and leaves it as it is."""
    stored = json.loads(tokenizer.to_str())
    special = {token["content"] for token in stored["added_tokens"]}
    stored.update(added_tokens=[], normalizer=None, post_processor=None)
    words, model = stored["pre_tokenizer"], stored["model"]
    if words and words.get("type") == "Metaspace":
        words["prepend_scheme"] = "never"
    if model["type"] == "Unigram":
        for entry in model["vocab"]:
            if entry[0] in special and not entry[0].startswith(HIDDEN):
                entry[0] = HIDDEN + entry[0]
    return type(tokenizer).from_str(json.dumps(stored))
