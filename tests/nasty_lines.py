"""Lines that text should not have and does: thousands of them, the same for the same seed."""

from __future__ import annotations

import random
from collections.abc import Sequence

_PARTS = (
    "the", "Haus", "A man", " ", "  ", "   ", "\t", "\n", "\r\n", "\u00a0", "\u3000", "\u2003",
    "\u200b", "\u200d", "\ufeff", "\u00ad", "▁", "▁▁", "😀", "👩\u200d👩\u200d👧", "🇩🇪", "👍🏽",
    "שלום", "مرحبا", "ﷺ", "e\u0301", "a\u0308\u0323", "\u0301", "n\u0303", "ﬁ", "ﬀ", "Ａ１",
    "ｶﾞ", "中文", "日本語", "한국어", "\u1112\u1161\u11ab", "ß", "İ", "ſ", "½", "①", "㎏", "…",
    "–", "—", "“x”", "«y»", "'", "''", "``", "\x00", "\x01", "\x1b", "\x7f", "\u0085", "\u2028",
    "\u202e", "\ufffd", "\U0001f9ff", "\ue000", "é", "ü", "Ö", "ı", "don't", "1,000.50", "3e-7",
    "http://a.b/c?d=e", "a@b.c", "x_y", "<", ">", ">>", "<<", "&amp;", "<0x41>", "Straße", "ÅÅ",
    "\u1e9b\u0323", "क्षि", "ไทย", "ကြ", "𝒜", "𠀀", "\u0f77", "Ǆ", "</s>", "<pad>", "<unk>",
    "<s>", "<mask>", ">>de<<", ">>xx<<", "<mask_1>", "<mask_2>", "<unk_7>", "<extra_id_3>",
    "__de__", "de_DE", "deu_Latn",
)  # fmt: skip
_RANGES = ((0x20, 0x7F), (0, 0x250), (0, 0x3100), (0, 0xD800), (0xE000, 0x110000))
_LONG = ("", "ab c" * 25_000, "x" * 100_000, "中" * 20_000, " " * 100_000, "The house. " * 9_000)


def nasty_lines(count: int, *, seed: int = 0) -> list[str]:
    """Return lines of odd parts, of random characters and of repetitions; the first are long."""
    source = random.Random(seed)
    return [*_LONG, *(_line(source) for _ in range(count - len(_LONG)))]


def _line(source: random.Random) -> str:
    kind = source.random()
    if kind < 0.85:
        between = "" if kind < 0.7 else " "
        return between.join(source.choices(_PARTS, k=source.randrange(1, 16)))
    if kind < 0.97:
        return "".join(_characters(source, _RANGES))
    return source.choice(_PARTS) * source.randrange(1, 60)


def _characters(source: random.Random, ranges: Sequence[tuple[int, int]]) -> list[str]:
    return [chr(source.randrange(*source.choice(ranges))) for _ in range(source.randrange(1, 40))]
