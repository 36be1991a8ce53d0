"""Text → sentences, and what is too long for a model → pieces that fit; no character is lost."""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_left
from collections.abc import Callable, Sequence
from itertools import pairwise

# Ends of sentences that need a space after them, those that never mean anything else, and those
# of scripts that write without spaces.
_SPACED, _CERTAIN, _UNSPACED = ".!?…‽", "؟۔।॥።፧։။។", "。！？｡．"
_CLOSERS = ")]}\"'”’“‘»›«‹*_）］｝」』】》〉〕"
_OPENERS = "([{\"'“‘„‚«‹»›¿¡*_（［｛「『【《〈〔–—-"
_END = re.compile(
    rf"(?P<end>[{_SPACED}{_CERTAIN}{_UNSPACED}]+)(?P<close>[{re.escape(_CLOSERS)}]*)(?P<space>\s*)"
    r"|(?P<blank>\n[^\S\n]*\n\s*)"
)
_WORD = re.compile(r"(?:[^\W\d_]|\d|(?<=[^\W\d_])\.(?=[^\W\d_]))+\Z")
_LONGEST_WORD = 32  # characters before a full stop that are looked at
_MOST_ORDINAL = 2  # digits of "3. Mai"

# Words that a name or a noun follows, in lower case: titles, streets, "e.g.".
_BEFORE_NAMES = frozenset(
    """
    mr mrs ms mx dr prof rev hon st ste mt ft gen col capt cpt cmdr lt sgt maj adm gov sen rep pres
    messrs mme mlle mgr sr sra srta dra hr frl dipl ing mag dres priv doz bzw ca vgl sog hl str
    evtl ggf inkl exkl zzgl sig dott avv geom egr spett inż św ul im al arch гр ул им проф акад тов
    напр např tzv tj phdr mudr judr rndr bl č cf vs viz approx dept asst assoc esp resp
    incl excl
    """.split()
)
# Words that a number follows: "No. 5", "S. 12", "Jan. 3".
_BEFORE_NUMBERS = frozenset(
    """
    no nr nos num art fig figs abb tab p pp pg vol vols ch cap kap sec abs para par eq ex ed bd op
    s nº n str стр рис гл ст jan feb mar apr jun jul aug sep sept oct okt nov dec dez
    """.split()
)


def sentences(text: str) -> list[str]:
    """Return the sentences of a text, each with the space after it; joined they are the text.

    A doubtful end is none: after abbreviations, initials and ordinals ("Dr. Who", "J. S. Bach",
    "3. Mai"), before a small letter, within numbers, addresses and "A.B.". An empty line always is.
    """
    found, start = [], 0
    for match in _END.finditer(text):
        if match.end() < len(text) and _is_end(text, match):
            found.append(text[start : match.end()])
            start = match.end()
    return [*found, text[start:]] if start < len(text) else found


def _is_end(text: str, match: re.Match[str]) -> bool:
    """Whether a sentence ends with what may be an end, something following it."""
    if match["blank"] is not None:
        return True
    end, following = match["end"], text[match.end()]
    if "\n" in match["space"] and match["space"].count("\n") > 1:
        return True
    if end == "．" and following.isdigit():
        return False
    if end[-1] in _UNSPACED:  # a quotation may go on: 「行く。」と言った
        return bool(match["space"]) or not match["close"] or following in _OPENERS
    if not match["space"]:
        return end[-1] in _CERTAIN and not match["close"]
    if end[-1] in _CERTAIN:
        return True
    first = _first_letter(text, match.end())
    if first.islower():
        return False
    return end != "." or bool(match["close"]) or not _is_shortened(text, match.start(), first)


def _first_letter(text: str, start: int) -> str:
    """Return the first character from a place on that is no bracket, quotation mark or dash."""
    while start < len(text) - 1 and (text[start] in _OPENERS or text[start].isspace()):
        start += 1
    return text[start]


def _is_shortened(text: str, dot: int, following: str) -> bool:
    """Whether the full stop at a place belongs to the word before it."""
    found = _WORD.search(text[max(0, dot - _LONGEST_WORD) : dot])
    if found is None:
        return False
    word = found[0]
    if word.isdigit():
        return len(word) <= _MOST_ORDINAL
    if len(word) == 1 and word.isupper() and word != "I":  # an initial
        return True
    if "." in word and max(map(len, word.split("."))) <= 2:  # U.S., z.B., Ph.D., but no address
        return True
    small = word.lower()
    return small in _BEFORE_NAMES or (small in _BEFORE_NUMBERS and following.isdigit())


def fitting(text: str, limit: int, count: Callable[[str], int]) -> list[str]:
    """Return pieces of a text that have at most `limit` tokens each; joined they are the text.

    A piece ends after the last comma or the like in its last third, else after the last space,
    else anywhere between two characters. One character is never too long.

    Args:
        text: What is too long.
        limit: The most tokens of a piece.
        count: The tokens of a text.
    """
    found = []
    guess = max(1, len(text) * limit // max(1, count(text)))
    while text:
        size = min(len(text), guess)
        while size > 1 and count(text[:size]) > limit:
            size = size * 4 // 5
        size = _cut(text, size)
        found.append(text[:size])
        text = text[size:]
    return found


_CLAUSE = re.compile(r"[,;:،؛](?=\s)\s*|[、，；：]|\s[–—-]\s")
_SPACE = re.compile(r"\s+")
_JOINERS = "\u200d\ufe0e\ufe0f"  # of what looks like one character


def _cut(text: str, size: int) -> int:
    """Return the best place to cut a text at `size` characters or a little before."""
    if size >= len(text):
        return size
    for pattern, least in ((_CLAUSE, size * 2 // 3), (_SPACE, size // 2)):
        ends = [match.end() for match in pattern.finditer(text, least, size)]
        if ends:
            return ends[-1]
    place = size
    while place > 1 and _continues(text, place):
        place -= 1
    return size if place <= 1 else place


def _continues(text: str, place: int) -> bool:
    """Whether the character at a place is drawn together with the one before."""
    if place >= len(text):
        return False
    after, before = text[place], text[place - 1]
    return after in _JOINERS or before == "\u200d" or bool(unicodedata.combining(after))


_UNSPACED_SCRIPTS = re.compile(
    "[\u3000-\u30ff\u3400-\u9fff\uf900-\ufaff\uff00-\uff60\U00020000-\U0003ffff]"
)


def joint(before: str, after: str) -> str:
    """Return what stands between two sentences: a space, but for Chinese and Japanese nothing."""
    if not before or not after or before[-1].isspace() or after[0].isspace():
        return ""
    return "" if _UNSPACED_SCRIPTS.match(before[-1]) and _UNSPACED_SCRIPTS.match(after[0]) else " "


def lines(text: str) -> list[tuple[str, str]]:
    """Return the lines of a text, each with what ends it: a line break, or nothing."""
    parts = re.split(r"(\r\n|\n|\r)", text)
    return list(zip(parts[::2], [*parts[1::2], ""], strict=True))


def packed(sizes: Sequence[int], limit: int) -> list[range]:
    """Return the fewest runs of neighbours whose sums are at most `limit`, the largest smallest.

    A size over the limit is a run of its own.
    """
    fewest = len(_filled(sizes, limit))
    least = bisect_left(range(limit), -fewest, key=lambda most: -len(_filled(sizes, most)))
    return _filled(sizes, least)


def _filled(sizes: Sequence[int], most: int) -> list[range]:
    """Return runs that each take what comes next as long as their sum is at most `most`."""
    starts: list[int] = []
    total = 0
    for place, size in enumerate(sizes):
        if not starts or total + size > most:
            starts.append(place)
            total = 0
        total += size
    return [range(*pair) for pair in pairwise([*starts, len(sizes)])]
