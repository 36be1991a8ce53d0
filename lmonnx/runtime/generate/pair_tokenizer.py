"""Texts → the ids of an encoder's source, and a decoder's ids → text.

    SourceTokenizer(folder: Path, text: TextSpec)
        .encode(texts, *, before=(), after=()) -> list[list[int]]
        .within(text) -> list[int]
        .frame -> tuple[list[int], list[int]]
    TargetTokenizer(folder: Path, text: TextSpec)
        .decode_many(rows) -> list[str]
        .text(ids) -> str
        .within(text) -> list[int]
        .encode(texts) -> list[list[int]]

`folder` is the bundle's, `text` its manifest's. All ids are the model's. A text is never cut: what
to do with one that is longer than the model is the pipeline's business. Both are safe to share by
threads, and many texts are read by several threads without the GIL.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from lmonnx.bundle.manifest import TextSpec, TokenizerSpec
from lmonnx.runtime.generate.piece_ids import open_ids
from lmonnx.runtime.tokenizer import clean_up_spaces


class SourceTokenizer:
    """Texts → ids for the encoder.

    Args:
        folder: The bundle's.
        text: How text becomes ids, as its manifest says.

    Raises:
        BundleError: A file is no tokenizer, or the ids that it states are none.
    """

    def __init__(self, folder: Path, text: TextSpec) -> None:
        self.ids = open_ids(folder, text.source, text.max_length)

    def encode(
        self, texts: Sequence[str], *, before: Sequence[int] = (), after: Sequence[int] = ()
    ) -> list[list[int]]:
        """Return the ids of every text: `before`, the text's between its special tokens, `after`.

        Args:
            texts: What to encode.
            before: Tokens before all others: a language's where its place is BEFORE.
            after: Tokens after the end token: a language's where its place is AFTER.

        Raises:
            InputError: A text is no str, or no valid Unicode.
        """
        return self.ids.framed(texts, before, after)

    def within(self, text: str) -> list[int]:
        """Return the ids of a part of a text, nothing put around it.

        Raises:
            InputError: It is no str, or no valid Unicode.
        """
        return self.ids.within(text)

    @cached_property
    def frame(self) -> tuple[list[int], list[int]]:
        """The special tokens before and after every text, languages not among them."""
        return self.ids.frame


class TargetTokenizer:
    """A decoder's ids → text, as transformers' `batch_decode` with `skip_special_tokens`.

    Args:
        folder: The bundle's.
        text: As its manifest says.
        source: The bundle's, which serves where `text` names no other tokenizer: opened if absent.

    Raises:
        BundleError: A file is no tokenizer, or the ids that it states are none.
    """

    def __init__(self, folder: Path, text: TextSpec, source: SourceTokenizer | None = None) -> None:
        spec: TokenizerSpec = text.target or text.source
        if source is not None and text.target is None:
            self._ids = source.ids
        else:
            self._ids = open_ids(folder, spec, text.max_length)
        self._cleans = bool(spec.clean_up_spaces)

    def decode_many(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """Return the text of every row of ids, without special tokens."""
        texts = self._ids.strings(rows)
        return [clean_up_spaces(text) for text in texts] if self._cleans else texts

    def text(self, ids: Sequence[int]) -> str:
        """Return the text of ids, without special tokens."""
        return self.decode_many([ids])[0]

    def within(self, text: str) -> list[int]:
        """Return the ids of a part of a text, nothing put around it: for what must not be said.

        Raises:
            InputError: It is no str, or no valid Unicode.
        """
        return self._ids.within(text)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of whole texts, as labels for training have them: with their end.

        Raises:
            InputError: A text is no str, or no valid Unicode.
        """
        return self._ids.framed(texts)
