"""A hundred texts that a classifier may meet: short, long, pairs, other scripts, nasty ones."""

from __future__ import annotations

import random

NASTY = (
    "",
    " ",
    "\n\t \r\n",
    "\x00",
    "a\x00b",
    "\x1b[31mred\x1b[0m",
    "\x7f\x80\x9f",
    "\u200b\u200d\ufeff",
    "\u202eright to left override",
    "\ufffd\ufffe\uffff",
    "😀",
    "👩‍👩‍👧‍👦 family 👍🏽",
    "فيلم رائع جدا",
    "סרט טוב",
    "中文电影很好",
    "日本語とEnglish",
    "Ünïcödé Éé ÉCOLE ß ﬁ Å",
    "e\u0301 combining \u0041\u030a",
    "İstanbul ǅ ʼn",
    "𝔣𝔦𝔩𝔪 𝒈𝒐𝒐𝒅",
    "½ ² № ℃ …",
    "don't can't won't",
    "[CLS] the film [SEP] [MASK] [PAD] [UNK]",
    "<s> the film</s> <mask> <pad> <unk>",
    "a <mask> b",
    "the film " * 200,
    "x" * 300,
    "a" * 100 + " " + "b" * 101,
    "!?" * 150,
    "😀" * 80,
    "中" * 80,
    "\n".join(str(i) for i in range(60)),
    "https://example.com/a?b=c&d=e#f user@example.com",
    "\\n \\u0041 %s {0} ${x} `ls` '; --",
    "NOT GOOD",
    "the\u00a0film\u3000is\u2003good",
    "--..,,;;::",
    "1.000,50 3e-7 0x1F",
)
_WORDS = "the film is not good bad boring a great deal of fun and i loved it at first but".split()


def mixed_texts() -> list[str | list[str]]:
    """Return 100 texts of mixed length, the same every time; a pair is a list of two."""
    draw = random.Random(3)
    texts: list[str | list[str]] = list(NASTY)
    while len(texts) < 84:
        texts.append(" ".join(draw.choices(_WORDS, k=draw.randint(1, 30))) + draw.choice(".!?, "))
    pairs = [
        ("", ""), ("the film", ""), ("", "good"), ("the film", "is good"), ("a" * 40, "b"),
        ("b", "the film is good " * 20), ("the film " * 30, "not good " * 30), ("😀", "中文"),
    ]  # fmt: skip
    while len(pairs) < 16:
        first, second = (" ".join(draw.choices(_WORDS, k=draw.randint(1, 25))) for _ in "ab")
        pairs.append((first, second))
    return texts + [list(pair) for pair in pairs]
