"""Text → what SentencePiece cuts into pieces, by its own rules.

The package's normalizer goes by grapheme and takes the shortest rule; SentencePiece takes the
longest at every place. Here it is done as SentencePiece does it.

Source:
    google/sentencepiece, `normalizer.cc`; s-yata/darts-clone for the double array.
"""

from __future__ import annotations

import re
from array import array

_SPACE = "▁"
_RUN = re.compile(" {2,}")
# What is no plain ASCII, with the character before it, which may be the first of a longer rule.
_ODD = re.compile(r"[ -~]?[^ -~]")
_ASCII = range(0x20, 0x7F)


class Charsmap:
    """The compiled normalization of a SentencePiece model, b"" for none.

    Raises:
        ValueError: It is no such thing; a damaged one that passes may replace wrongly, no more.
    """

    def __init__(self, data: bytes) -> None:
        size = int.from_bytes(data[:4], "little")
        if data and (size % 4 or not 0 < size <= len(data) - 4):
            raise ValueError("its normalization is cut short")
        self._units = array("I", data[4 : 4 + size])
        self._texts = data[4 + size :]
        self._known: dict[str, tuple[str, bool]] = {}
        self._plain = not data or self._leaves_ascii()

    def apply(self, text: str) -> str:
        """Return the text with the longest rule applied at every place, from left to right."""
        if not self._units or (self._plain and text.isascii() and text.isprintable()):
            return text
        found: list[str] = []
        at = 0
        while at < len(text):
            begin = at
            if self._plain:
                odd = _ODD.search(text, at)
                begin = odd.start() if odd else len(text)
                found.append(text[at:begin])
            if begin < len(text):
                replaced, length = self._at(text, begin)
                found.append(replaced)
                begin += length
            at = begin
        return "".join(found)

    def _at(self, text: str, at: int) -> tuple[str, int]:
        """Return what stands for the characters at a place, and how many they are."""
        first = text[at]
        known = self._known.get(first)
        if known is None:
            (replaced, _), more = self._longest(first.encode(), len(first.encode()))
            known = self._known[first] = (first if replaced is None else replaced, more)
        replaced, more = known
        if not more:
            return replaced, 1
        bytes_here = text[at : at + 64].encode()
        (longest, length), _ = self._longest(bytes_here, len(first.encode()))
        return (first, 1) if longest is None else (longest, len(bytes_here[:length].decode()))

    def _longest(self, data: bytes, first: int) -> tuple[tuple[str | None, int], bool]:
        """Return the longest rule that `data` begins with, and whether any goes on at its end."""
        units, node, found = self._units, _offset(self._units[0]), (None, 0)
        best: tuple[str | None, int] = found
        for length, byte in enumerate(data, 1):
            node ^= byte
            if node >= len(units) or units[node] & 0x800000FF != byte:
                return best, False
            unit = units[node]
            node ^= _offset(unit)
            if unit & 0x100 and length >= first and node < len(units):
                best = (self._text(units[node] & 0x7FFFFFFF), length)
        return best, any(
            node ^ byte < len(units) and units[node ^ byte] & 0x800000FF == byte
            for byte in range(1, 256)
        )

    def _text(self, at: int) -> str:
        return self._texts[at : self._texts.find(b"\0", at)].decode("utf-8", "replace")

    def _leaves_ascii(self) -> bool:
        """Say whether no rule is of printable ASCII alone."""
        for code in _ASCII:
            (replaced, _), more = self._longest(bytes([code]), 1)
            if replaced is not None:
                return False
            if more and any(self._goes_on(code, following) for following in range(1, 0x80)):
                return False
        return True

    def _goes_on(self, code: int, following: int) -> bool:
        node = _offset(self._units[0]) ^ code
        node ^= _offset(self._units[node]) ^ following
        return node < len(self._units) and self._units[node] & 0x800000FF == following


def _offset(unit: int) -> int:
    return (unit >> 10) << ((unit & 0x200) >> 6)


class Normalizer:
    """What SentencePiece does to a text before it cuts it.

    Args:
        charsmap: Its compiled rules.
        dummy_prefix: A space goes before a text.
        squeeze: Runs of spaces are one, and those at the ends go.
    """

    def __init__(self, charsmap: bytes, *, dummy_prefix: bool, squeeze: bool) -> None:
        self._charsmap = Charsmap(charsmap)
        self._prefix = _SPACE if dummy_prefix else ""
        self._squeezes = squeeze

    def apply(self, text: str) -> str:
        """Return the text with its spaces as ▁, "" where nothing of it is left."""
        if not text:
            return ""
        text = self._charsmap.apply(text)
        if self._squeezes:
            text = _RUN.sub(" ", text).lstrip(" ")
        text = self._prefix + text.replace(" ", _SPACE)
        return text.rstrip(_SPACE) if self._squeezes else text
