"""Tokens → text, piece by piece, in whole characters."""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Sequence

from lmonnx.runtime.tokenizer import clean_up_spaces

_INVALID = "\ufffd"
_LONGEST = 24  # a window this long is cut
_KEPT = 6  # to about so many tokens
# What is cleaned starts with a space, has at most three letters and marks in a row, and no space
# inside but one beside a lone apostrophe (" n ' t"): so it lies across no other place.
_SAFE = re.compile(r"(?s).*(?:[^ ]{3}|(?<=[^ '])(?= (?:[^']|'[^ ])))")


class Detokenizer:
    """The text of a growing row of tokens; a token costs the decoding of a short window.

    The pieces, joined with what `flush` gives, are what `decode(prefix + tokens)` has after
    `decode(prefix)`, for every row of tokens. An incomplete character is held back until it is
    whole or cannot become so; so are byte-fallback tokens until another kind of token comes, as
    one invalid byte makes the whole run of them U+FFFD.

    Where the bundle cleans up spaces say so by `cleans`: `decode` must not, as that looks at what
    follows.
    """

    def __init__(
        self,
        decode: Callable[[Sequence[int]], str],
        prefix: Sequence[int] = (),
        *,
        byte_ids: Container[int] = frozenset(),
        cleans: bool = False,
    ) -> None:
        """Start after a prompt.

        Args:
            decode: Ids → text, special tokens skipped or not.
            prefix: The tokens before, whose text is not given but decides on spaces.
            byte_ids: Those of byte fallback (see `byte_fallback_ids`).
            cleans: Give the text without the spaces before punctuation, a few characters late.
        """
        self._decode, self._byte_ids = decode, byte_ids
        # Without byte fallback a last U+FFFD may be the beginning of a character.
        self._may_be_cut = not byte_ids
        self._window = _context(decode, prefix, byte_ids)
        self._clean: list[int] = []  # places in the window where a character ends for certain
        self._shown = len(decode(self._window).rstrip(_INVALID))
        self._in_run = bool(byte_ids)
        self._cleaner = _Cleaner() if cleans else None

    def push(self, token: int) -> str:
        """Take a token; return the characters that are now certain."""
        piece = self._take(token)
        return self._cleaner.push(piece) if self._cleaner else piece

    def flush(self) -> str:
        """Return the rest, an incomplete character as U+FFFD."""
        text = self._decode(self._window)
        piece, self._shown = text[self._shown :], max(self._shown, len(text))
        return self._cleaner.push(piece) + self._cleaner.flush() if self._cleaner else piece

    def _take(self, token: int) -> str:
        if token in self._byte_ids:
            self._in_run = True
            self._window.append(token)
            return ""
        if self._in_run and _is_silent(self._decode, token):
            return ""
        self._in_run = False
        self._window.append(token)
        text = self._decode(self._window)
        is_open = self._may_be_cut and text.endswith(_INVALID)
        end = max(self._shown, len(text) - is_open)
        piece, self._shown = text[self._shown : end], end
        if not piece and _is_silent(self._decode, token):
            self._window.pop()
        elif not is_open:
            self._clean.append(len(self._window))
        if len(self._window) > _LONGEST:
            self._cut(text)
        return piece

    def _cut(self, text: str) -> None:
        """Forget the window's beginning where that cannot change what comes."""
        latest = len(self._window) - _KEPT
        start = max((place for place in self._clean if place <= latest), default=0)
        if not start and self._is_border(latest, text):
            start = latest
        kept = self._window[start:]
        shorter = self._decode(kept)
        # An empty context would lose the space before the next word.
        if not start or not shorter or not text.endswith(shorter):
            return
        shown = len(shorter) - (len(text) - self._shown)
        if shown >= 0:
            self._window, self._shown = kept, shown
            self._clean = [place - start for place in self._clean if place > start]

    def _is_border(self, place: int, text: str) -> bool:
        """Whether no character lies across a place: its parts would be more than the whole."""
        parts = self._decode(self._window[:place]) + self._decode(self._window[place:])
        return self._may_be_cut and parts == text


class _Cleaner:
    """`clean_up_spaces` of a text that comes in pieces."""

    def __init__(self) -> None:
        self._held = ""

    def push(self, text: str) -> str:
        """Take text; return, cleaned, what no later text can change."""
        self._held += text
        safe = _SAFE.match(self._held)
        cut = safe.end() if safe else 0
        done, self._held = self._held[:cut], self._held[cut:]
        return clean_up_spaces(done)

    def flush(self) -> str:
        """Return the rest."""
        rest, self._held = self._held, ""
        return clean_up_spaces(rest)


def byte_fallback_ids(id_of: Callable[[str], int | None]) -> frozenset[int]:
    """Return the ids of the tokens <0x00> … <0xFF>; none where the vocabulary lacks them."""
    found = (id_of(f"<0x{byte:02X}>") for byte in range(256))
    return frozenset(index for index in found if index is not None)


def _is_silent(decode: Callable[[Sequence[int]], str], token: int) -> bool:
    """Whether a token is skipped, as special ones are; once alone a space would be, too."""
    return not decode([token, token])


def _context(
    decode: Callable[[Sequence[int]], str], prefix: Sequence[int], byte_ids: Container[int]
) -> list[int]:
    """Return the end of a prefix that decides on what follows as the whole of it does."""
    size = _KEPT
    while size < len(prefix):
        start = len(prefix) - size
        before = prefix[start - 1]
        if byte_ids and (before in byte_ids or _is_silent(decode, before)):
            size += 1  # a run of bytes is whole or wrong
        elif decode(prefix[start:]).strip(_INVALID):
            break
        else:
            size *= 2
    return [int(token) for token in prefix[-size:]]
