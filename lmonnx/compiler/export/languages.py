"""A checkpoint's tokenizer files → its languages: their ids, and where their tokens stand."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from lmonnx.bundle.manifest import Languages, Place
from lmonnx.compiler.checkpoint import Checkpoint
from lmonnx.compiler.export import language_codes as codes
from lmonnx.compiler.export.vocabulary import read_tokenizer, tokenizer_class
from lmonnx.errors import StageError

_MARIAN = re.compile(r">>(.+)<<")
_SETTINGS = "tokenizer_config.json"


def read_languages(checkpoint: Checkpoint) -> Languages | None:
    """Return the languages of a checkpoint, None where its tokenizer knows none.

    The defaults are those that tokenizer_config.json states, where they are of the model; see
    `aimed` for what the settings of generation say.

    Raises:
        StageError: A file is damaged.
        UnsupportedError: The tokenizer cannot be read.
    """
    settings = checkpoint.json_file(_SETTINGS) or {}
    rules = _CLASSES.get(tokenizer_class(checkpoint, settings))
    ids = rules.ids(checkpoint, settings) if rules else {}
    if rules is None or not ids:
        return None
    after = rules.source is Place.BEFORE and settings.get("legacy_behaviour") is True
    stated = [settings.get(name) for name in rules.stated]
    source, target = (code if code in ids else None for code in stated)
    return Languages(
        ids=ids,
        source_place=Place.AFTER if after and rules.has_legacy else rules.source,
        target_place=rules.target,
        source=source if rules.source is not Place.NONE else None,
        target=target,
    )


def aimed(languages: Languages | None, *, start: int, forced: int | None) -> Languages | None:
    """Return languages whose default target is the one that `generate` begins with unasked.

    Where the decoder is to start with a language but does not, and is forced to choose one, that
    is the target's place.

    Args:
        languages: Of the tokenizer.
        start: decoder_start_token_id.
        forced: forced_bos_token_id.
    """
    if languages is None:
        return None
    by_id = {index: code for code, index in languages.ids.items()}
    if languages.target_place is Place.START and start in by_id:
        return replace(languages, target=by_id[start])
    if languages.target_place in {Place.START, Place.FORCED} and forced in by_id:
        return replace(languages, target_place=Place.FORCED, target=by_id[forced])
    return languages


def encoder_of(checkpoint: Checkpoint, name: str = "vocab.json") -> dict[str, int]:
    """Return the ids by piece of a vocabulary file.

    Raises:
        StageError: It is missing, or no such thing.
    """
    stored = checkpoint.json_file(name)
    if not stored:
        raise StageError(f"{checkpoint.path / name} is missing or empty; fetch it again")
    by_id: dict[int, str] = {}
    for piece, index in stored.items():
        if type(index) is not int or index < 0:
            raise StageError(f"{name}: the id of {piece!r:.40} is {index!r:.40}, no number from 0")
        if index in by_id:
            raise StageError(f"{name}: {by_id[index]!r:.40} and {piece!r:.40} have one id, {index}")
        by_id[index] = piece
    return dict(stored)


def m2m100_codes(settings: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the languages of M2M100's class.

    Raises:
        StageError: The settings name a list that it does not know.
    """
    named = settings.get("language_codes", "m2m100")
    lists = {"m2m100": codes.M2M100, "wmt21": codes.WMT21}
    if named not in lists:
        raise StageError(
            f"{_SETTINGS}: language_codes is {named!r:.40}, neither {' nor '.join(lists)}"
        )
    return lists[named]


def _marian(checkpoint: Checkpoint, settings: Mapping[str, Any]) -> dict[str, int]:
    found = ((_MARIAN.fullmatch(piece), i) for piece, i in encoder_of(checkpoint).items())
    return {match[1]: index for match, index in found if match}


def _m2m100(checkpoint: Checkpoint, settings: Mapping[str, Any]) -> dict[str, int]:
    first = len(encoder_of(checkpoint))
    return {code: first + index for index, code in enumerate(m2m100_codes(settings))}


def _of_tokens(
    known: Iterable[str],
) -> Callable[[Checkpoint, Mapping[str, Any]], dict[str, int]]:
    """Return a reader of the codes that are tokens as they stand."""

    def read(checkpoint: Checkpoint, settings: Mapping[str, Any]) -> dict[str, int]:
        tokenizer = read_tokenizer(checkpoint, settings)
        ids = {code: tokenizer.token_to_id(code) for code in known}
        return {code: index for code, index in ids.items() if index is not None}

    return read


@dataclass(frozen=True, slots=True)
class _Class:
    """Where a class of transformers puts the languages; `stated` names the settings of them."""

    ids: Callable[[Checkpoint, Mapping[str, Any]], dict[str, int]]
    source: Place
    target: Place
    stated: tuple[str, str] = ("src_lang", "tgt_lang")
    has_legacy: bool = False


_CLASSES = {
    "M2M100Tokenizer": _Class(_m2m100, Place.BEFORE, Place.FORCED),
    "MBart50Tokenizer": _Class(_of_tokens(codes.MBART50), Place.BEFORE, Place.FORCED),
    "MBartTokenizer": _Class(_of_tokens(codes.MBART), Place.AFTER, Place.START),
    "MarianTokenizer": _Class(_marian, Place.NONE, Place.BEFORE, ("source_lang", "target_lang")),
    "NllbTokenizer": _Class(_of_tokens(codes.NLLB), Place.BEFORE, Place.FORCED, has_legacy=True),
}
