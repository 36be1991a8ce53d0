"""A file of texts and what they should become → pairs: tables, .jsonl of datasets, two files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmonnx.errors import InputError
from lmonnx.measure.datasets import read_texts
from lmonnx.measure.tables import is_index, read_objects, read_rows

_TABLE_KINDS = (".tsv", ".csv")
# Names that data sets on the hub have for a text and for what it should become, the surest first.
_SOURCES = ("source", "src", "document", "article", "dialogue", "input", "text")
_REFERENCES = (
    "reference", "references", "target", "tgt", "summary", "highlights", "abstract", "output",
    "label",
)  # fmt: skip
_PAIRED = "translation"  # a key that holds a text by language
_HOW = "name the keys with --text and --label"


@dataclass(frozen=True, slots=True)
class Rewriting:
    """A text, and every text that is a right answer to it."""

    source: str
    references: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Keys:
    """Where a .jsonl holds sources and references; None is found out by its first line."""

    source: str | None = None
    reference: str | None = None
    source_lang: str | None = None
    target_lang: str | None = None


def read_rewritings(
    path: Path,
    *,
    text: str = "0",
    label: str = "1",
    references: Path | None = None,
    source_lang: str | None = None,
    target_lang: str | None = None,
) -> list[Rewriting]:
    """Read texts and what they should become, in the order of the file.

    A .jsonl has an object a line, with keys as data sets of the hub have them: source and
    reference, document and summary, article and highlights, or translation with a text by
    language. A .csv and any other file are tables: of any other the columns are set apart by tabs.
    With `references`, line n of that file is the reference of line n of `path`, blank or not.

    Args:
        path: UTF-8.
        text: The column, or key, of the text; "0" in .jsonl is whatever key is there.
        label: That of the reference, likewise; a list in .jsonl holds several.
        references: A second file of plain lines.
        source_lang: The language of the text, where .jsonl has several.
        target_lang: The language of the reference.

    Raises:
        InputError: A file is missing, not UTF-8, of another form or empty, or the two have
            different numbers of lines.
    """
    if references is not None:
        found = _side_by_side(path, references)
    elif path.suffix.lower() == ".jsonl":
        keys = Keys(
            None if is_index(text) else text,
            None if is_index(label) else label,
            source_lang,
            target_lang,
        )
        found = list(_objects(path, keys))
    else:
        kind = path.suffix.lower() if path.suffix.lower() in _TABLE_KINDS else ".tsv"
        rows = read_rows(path, [text, label], kind=kind)
        found = [Rewriting(cells[0], (cells[1],)) for _, cells in rows]
    if not found:
        raise InputError(f"{path} has no examples; give a file with one a line")
    return found


def has_references(path: Path) -> bool:
    """Say whether a file holds texts with references, as `read_rewritings` reads it without others.

    A .tsv, .csv or .jsonl does, and any other whose first line that is not blank has a tab. One
    that cannot be read does not: whoever reads it says why.
    """
    if path.suffix.lower() in {*_TABLE_KINDS, ".jsonl"}:
        return True
    try:
        with path.open("rb") as lines:
            return b"\t" in next((line.strip(b"\r\n") for line in lines if line.strip()), b"")
    except OSError:
        return False


def _side_by_side(path: Path, references: Path) -> list[Rewriting]:
    sources, targets = _lines(path), _lines(references)
    if len(sources) != len(targets):
        raise InputError(
            f"{path} has {len(sources)} lines, {references} {len(targets)}; line n of one must be "
            "the reference of line n of the other"
        )
    return [Rewriting(source, (each,)) for source, each in zip(sources, targets, strict=True)]


def _lines(path: Path) -> list[str]:
    try:
        with path.open("rb") as lines:
            return list(read_texts(lines, str(path)))
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); check the path") from error


def _objects(path: Path, keys: Keys) -> Iterator[Rewriting]:
    chosen: Keys | None = None
    for number, stored in read_objects(path):
        where = f"{path}, line {number}"
        plain = _flat(stored, keys)
        chosen = chosen or _chosen(plain, keys, where)
        source = plain.get(str(chosen.source))
        given = plain.get(str(chosen.reference))
        several = tuple(given) if isinstance(given, list) else (given,)
        if not isinstance(source, str) or not several or not all(map(_is_text, several)):
            raise InputError(
                f"{where}: {chosen.source!r} must be a text, and {chosen.reference!r} one or "
                f"several; {_HOW}"
            )
        yield Rewriting(source, several)


def _flat(stored: Mapping[str, Any], keys: Keys) -> Mapping[str, Any]:
    """Return an object whose texts by language have become keys of its own."""
    held = stored.get(_PAIRED)
    if not isinstance(held, Mapping) or keys.source in stored:
        return stored
    return held


def _chosen(plain: Mapping[str, Any], keys: Keys, where: str) -> Keys:
    """Return the keys that hold source and reference.

    Raises:
        InputError: None are known.
    """
    languages = _languages(plain, keys)
    source = keys.source or languages[0] or _first(_SOURCES, plain)
    others = {name: value for name, value in plain.items() if name != source}
    reference = keys.reference or languages[1] or _first(_REFERENCES, others)
    missing = [name for name in (source, reference) if name is None or name not in plain]
    if missing:
        told = f"there is no key {missing[0]!r}" if missing[0] else "no key is known to be a text"
        raise InputError(f"{where}: {told}, only {', '.join(plain) or 'none'}; {_HOW}")
    return Keys(source, reference)


def _languages(plain: Mapping[str, Any], keys: Keys) -> tuple[str | None, str | None]:
    """Return the keys of two languages: those asked for, and the one left; of just two in turn."""
    asked = [_alike(code, plain) for code in (keys.source_lang, keys.target_lang)]
    if keys.source or _first(_SOURCES, plain):
        return None, None
    left = [name for name in plain if name not in asked]
    unknown = not any(asked) and (keys.source_lang or keys.target_lang)
    if unknown or len(left) != asked.count(None):  # which is which would be a guess
        return asked[0], asked[1]
    found = [code or left.pop(0) for code in asked]
    return found[0], found[1]


def _alike(code: str | None, plain: Mapping[str, Any]) -> str | None:
    """Return the key of a language: itself, or the one that its code begins with ("de_DE")."""
    if code is None or code in plain:
        return code
    return next((name for name in plain if code.startswith(name)), None)


def _first(names: Sequence[str], plain: Mapping[str, Any]) -> str | None:
    return next((name for name in names if name in plain), None)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)
