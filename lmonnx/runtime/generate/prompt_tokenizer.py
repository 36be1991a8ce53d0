"""Prompts → ids and back: with the checkpoint's special tokens, without, or all as plain text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from lmonnx.bundle.manifest import TextSpec
from lmonnx.errors import InputError
from lmonnx.runtime.tokenizer import Tokenizer


class PromptTokenizer(Tokenizer):
    """A decoder's tokenizer; a prompt is never cut."""

    def __init__(self, path: Path, text: TextSpec) -> None:
        super().__init__(path, text)
        _remember_no_texts(self._tokenizer)

    def prompt(self, text: str) -> list[int]:
        """Return a prompt's ids, with the special tokens that the checkpoint puts around text.

        Raises:
            InputError: It is no str, or no valid Unicode.
        """
        (whole,) = self._encode([_checked(text)], 0)
        ids: list[int] = whole.ids
        return ids

    def within(self, text: str) -> list[int]:
        """Return the ids of a part of a text: special tokens where they stand, none around it."""
        return _ids(self._tokenizer, text)

    def literal(self, text: str) -> list[int]:
        """Return the ids of a part of a text in which nothing is a special token."""
        return _ids(self._blind, text)

    def text(self, ids: Sequence[int]) -> str:
        """Return the text of ids, without special tokens; no space is cleaned up."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True))

    @cached_property
    def specials(self) -> dict[str, int]:
        """The special tokens and their ids, longest first."""
        added = self._tokenizer.get_added_tokens_decoder()
        found = {token.content: index for index, token in added.items() if token.special}
        return dict(sorted(found.items(), key=lambda item: -len(item[0])))

    @cached_property
    def _blind(self) -> Any:
        """A second tokenizer, to which special tokens are text; made when first needed."""
        twin = type(self._tokenizer).from_str(self._tokenizer.to_str())
        twin.encode_special_tokens = True
        return twin


def _remember_no_texts(tokenizer: Any) -> None:
    """Empty the package's cache of words where a word is a whole text: 10,000 of them a thread."""
    splits = tokenizer.pre_tokenizer
    resize = getattr(tokenizer.model, "_resize_cache", None)
    if resize is not None and (splits is None or getattr(splits, "split", True) is False):
        resize(0)


def _ids(tokenizer: Any, text: str) -> list[int]:
    encode: Callable[..., Any] = tokenizer.encode
    ids: list[int] = encode(_checked(text), add_special_tokens=False).ids
    return ids


def _checked(text: str) -> str:
    """Refuse what the tokenizer would fail on."""
    if not isinstance(text, str):
        raise InputError(f"{type(text).__name__} is no text: give a str")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"the text is not valid Unicode at character {error.start}; decode it again"
        ) from error
    return text
