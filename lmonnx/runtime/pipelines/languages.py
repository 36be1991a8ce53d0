"""Language codes and tasks' prefixes → what stands before and after a source, and what begins."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches

from lmonnx.bundle.manifest import Generation, Languages, Place, Seq2Seq
from lmonnx.errors import BundleError, InputError

_PAIR = re.compile(r"translation_(.+)_to_(.+)")
_Codes = tuple[str, str]
_SHOWN = 12  # codes of an error
_ONE_WAY = (
    "its checkpoint states no languages and no prefixes of theirs: it translates one way, or is "
    "told by a prefix (--prefix)"
)


@dataclass(frozen=True, slots=True)
class Frame:
    """What a request puts around every source: text, then ids; and how its answer begins.

    The source is `before`, the tokens of `prefix` and the text, `after`; the answer starts with
    `start_id`, which is not part of it, and must go on with `forced`.
    """

    start_id: int
    prefix: str = ""
    before: tuple[int, ...] = ()
    after: tuple[int, ...] = ()
    forced: tuple[int, ...] = ()


def make_frame(
    seq2seq: Seq2Seq,
    *,
    source_lang: str | None = None,
    target_lang: str | None = None,
    prefix: str | None = None,
    task: str | None = None,
) -> Frame:
    """Return what a request puts around its sources.

    Args:
        seq2seq: What the manifest says.
        source_lang: The code of the sources' language; None is the model's default.
        target_lang: The code of the answers' language; None is the model's default.
        prefix: What stands before every text; None is that of the task and the languages.
        task: The task whose prefix is taken unasked: "translation", "summarization" or None.

    Raises:
        InputError: A code is unknown or missing, or the model has no languages.
        BundleError: The manifest names no token that the decoder starts with.
    """
    languages = seq2seq.languages
    if languages is None:
        codes = (source_lang, target_lang)
        found = _prefix(seq2seq, codes, task) if prefix is None else prefix
        if prefix is not None:
            _refuse_codes(codes, "its prefix says what to do")
        return Frame(_start(seq2seq.start_id), found)
    source = _token(languages, source_lang, "source")
    target = _token(languages, target_lang, "target")
    at: dict[Place, tuple[int, ...]] = dict.fromkeys(Place, ())
    for place, ids in ((languages.source_place, source), (languages.target_place, target)):
        at[place] += ids
    start = at[Place.START][-1] if at[Place.START] else _start(seq2seq.start_id)
    return Frame(start, prefix or "", at[Place.BEFORE], at[Place.AFTER], at[Place.FORCED])


def codes(seq2seq: Seq2Seq) -> tuple[str, ...]:
    """Return the codes of a model's languages: those of its tokens, else of its prefixes."""
    if seq2seq.languages is not None:
        return tuple(seq2seq.languages.ids)
    named = _named_pairs(seq2seq) if _pairs(seq2seq.prefixes or ()) else ()
    return tuple(dict.fromkeys(code for pair in named for code in pair))


def task_names(
    generation: Generation,
    task: str | None,
    source_lang: str | None = None,
    target_lang: str | None = None,
) -> tuple[str, ...]:
    """Return the checkpoint's names of what a call asks for, whose settings it takes unasked.

    Of translation they are the pairs of languages that the call may mean, all of them where none
    is of its codes; of a model that names no pairs, and of another task, the task itself.
    """
    seq2seq = generation.seq2seq
    if task is None or seq2seq is None:
        return ()
    pairs = _named_pairs(seq2seq)
    if task != "translation" or not pairs:
        return (task,)
    fits = _fitting(pairs, (source_lang, target_lang))
    return tuple(pairs[pair] for pair in fits or pairs)


def _start(start_id: int | None) -> int:
    if start_id is None:
        raise BundleError("the bundle names no token that its decoder starts with; export it again")
    return start_id


def _token(languages: Languages, code: str | None, side: str) -> tuple[int, ...]:
    """Return the token of a language, none where the model does not mark this side's."""
    place: Place = getattr(languages, f"{side}_place")
    if place is Place.NONE:
        _refuse(side, code, "nothing says so in its input")
        return ()
    code = getattr(languages, side) if code is None else code
    if code is None:
        raise InputError(
            f"the model translates {'from' if side == 'source' else 'into'} several languages; "
            f"give {side}_lang (--{side}-lang), one of {_some(languages.ids)}"
        )
    if not isinstance(code, str) or code not in languages.ids:
        raise _unknown(code, languages.ids, side)
    return (languages.ids[code],)


def _prefix(seq2seq: Seq2Seq, codes: tuple[str | None, str | None], task: str | None) -> str:
    """Return the prefix of a task, or of a pair of languages; a code is for translation only."""
    prefixes = seq2seq.prefixes or {}
    if task != "translation":
        _refuse_codes(codes, "it does not translate")
        return "" if task is None else prefixes.get(task, "")
    if not _pairs(prefixes):
        _refuse_codes(codes, _ONE_WAY)
        return prefixes.get(task, "")
    pairs = _named_pairs(seq2seq)
    for side, code in zip(("source", "target"), codes, strict=True):
        known = list(dict.fromkeys(pair[side == "target"] for pair in pairs))
        if code is not None and code not in known:
            raise _unknown(code, known, side)
    fits = _fitting(pairs, codes)
    if len(fits) != 1:
        named = ", ".join(f"{source} to {target}" for source, target in fits or pairs)
        raise InputError(
            f"the model was trained for {named}; give source_lang and target_lang, or a prefix"
        )
    return prefixes.get(pairs[fits[0]], "")


def _named_pairs(seq2seq: Seq2Seq) -> dict[_Codes, str]:
    """Return the tasks of pairs of languages that have a prefix or settings."""
    return _pairs({**(seq2seq.prefixes or {}), **(seq2seq.task_settings or {})})


def _pairs(names: Iterable[str]) -> dict[_Codes, str]:
    """Return those of tasks' names that are of a pair of languages, by (source, target)."""
    found = ((_PAIR.fullmatch(name), name) for name in names)
    return {(match[1], match[2]): name for match, name in found if match}


def _fitting(pairs: Iterable[_Codes], codes: tuple[str | None, str | None]) -> list[_Codes]:
    """Return the pairs of languages that codes may mean; None may be any."""
    return [
        pair
        for pair in pairs
        if all(code in (None, own) for code, own in zip(codes, pair, strict=True))
    ]


def _refuse_codes(codes: tuple[str | None, str | None], why: str) -> None:
    for side, code in zip(("source", "target"), codes, strict=True):
        _refuse(side, code, why)


def _refuse(side: str, code: str | None, why: str) -> None:
    if code is not None:
        raise InputError(
            f"{side}_lang is {code!r:.40}, but the model takes none, as {why}; leave it out"
        )


def _unknown(code: object, known: Iterable[str], side: str) -> InputError:
    return InputError(
        f"{side}_lang {code!r:.40} is no language of this model; give one of "
        f"{_some(known, near=str(code))}"
    )


def _some(known: Iterable[str], *, near: str = "") -> str:
    """Return the codes, where there are many those that look like one first, and how many more."""
    names = list(known)
    if len(names) <= _SHOWN:
        return ", ".join(names)
    plain = {name.lower().lstrip("<>_"): name for name in names}
    begin = near.lower()[:2]
    alike = get_close_matches(near.lower(), plain, n=_SHOWN // 2, cutoff=0.5)
    alike += [name for name in sorted(plain) if begin and name.startswith(begin)]
    alike += list(plain)
    shown = list(dict.fromkeys(plain[name] for name in alike))[:_SHOWN]
    return f"{', '.join(shown)} … ({len(names)} in all; `lmonnx inspect` lists them)"
