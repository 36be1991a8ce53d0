"""A .tsv, .csv or .jsonl file → the cells of the columns that are asked for, line by line."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from lmonnx.errors import InputError

Row = tuple[int, list[str]]  # the line a row starts on, and its cells

BOM = b"\xef\xbb\xbf"
_HOW = "name or count the columns with --text and --label"


def read_rows(path: Path, columns: Sequence[str], *, kind: str | None = None) -> Iterator[Row]:
    """Yield the line number (from 1) and the cells of `columns`, in that order, of every row.

    A column is an index from 0, or a name. When all are indexes the file has no header; when any
    is a name its first row is the header. In .jsonl every column is a key. Blank lines are
    skipped.

    Args:
        path: UTF-8.
        columns: What is asked for.
        kind: The suffix that says how to read the file; None is its own.

    Raises:
        InputError: The file is missing, not UTF-8 or of another kind, a row has more or fewer
            cells than the first, or a column is not there; file and line are named.
    """
    suffix = kind or path.suffix.lower()
    if suffix == ".jsonl":
        return _jsonl(path, columns)
    if suffix not in _TABLES:
        kinds = ", ".join(KINDS)
        raise InputError(f"{path}: {suffix or 'no suffix'} is no known kind of file, use {kinds}")
    return _select(path, _TABLES[suffix](path, read_content(path)), columns)


def is_index(column: str) -> bool:
    """Say whether `column` is an index: ASCII digits only."""
    return column.isascii() and column.isdigit()


def read_content(path: Path) -> str:
    """Return the text of a file, without a byte order mark.

    Raises:
        InputError: The file is missing or not UTF-8.
    """
    try:
        data = path.read_bytes().removeprefix(BOM)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); check the path") from error
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(f"{path}, line {line}: not UTF-8; save the file as UTF-8") from error


def _tsv(path: Path, content: str) -> Iterator[Row]:
    # Not splitlines, which also splits at characters that are part of a text.
    for number, line in enumerate(content.split("\n"), 1):
        if line.removesuffix("\r"):
            yield number, line.removesuffix("\r").split("\t")


def _csv(path: Path, content: str) -> Iterator[Row]:
    reader = csv.reader(io.StringIO(content, newline=""), strict=True)
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise InputError(
                f"{path}, line {line}: not CSV ({error}); quote cells that hold commas, quotes or "
                "line ends, or use .tsv or .jsonl"
            ) from error
        if cells:
            yield line, cells


_TABLES: Mapping[str, Callable[[Path, str], Iterator[Row]]] = {".tsv": _tsv, ".csv": _csv}
KINDS = (*_TABLES, ".jsonl")


def _select(path: Path, rows: Iterator[Row], columns: Sequence[str]) -> Iterator[Row]:
    """Yield the wanted cells of every row that is no header."""
    first = next(rows, None)
    if first is None:
        return
    line, cells = first
    header: list[str] = []
    if all(is_index(column) for column in columns):
        rows = chain([first], rows)
    else:
        header = [cell.strip() for cell in cells]
    places = [_place(f"{path}, line {line}", column, header, len(cells)) for column in columns]
    for number, row in rows:
        if len(row) != len(cells):
            raise InputError(
                f"{path}, line {number}: {len(row)} columns, but line {line} has {len(cells)}; "
                "make them equal"
            )
        yield number, [row[place] for place in places]


def _place(where: str, column: str, header: list[str], width: int) -> int:
    if header.count(column) == 1:
        return header.index(column)
    if is_index(column) and int(column) < width:
        return int(column)
    if is_index(column):
        raise InputError(f"{where}: there is no column {column}, only 0 to {width - 1}; {_HOW}")
    fault = "two columns are" if column in header else "there is no column"
    raise InputError(f"{where}: {fault} {column!r}; the header has {', '.join(header)}")


def read_objects(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the line number (from 1) and the object of every line of a .jsonl that is not blank.

    Raises:
        InputError: The file is missing or not UTF-8, or a line is no JSON object.
    """
    for number, line in enumerate(read_content(path).split("\n"), 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            stored = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{where}: not JSON ({error}); write one object a line") from error
        if not isinstance(stored, dict):
            raise InputError(f"{where}: not an object; write one with text and label a line")
        yield number, stored


def _jsonl(path: Path, columns: Sequence[str]) -> Iterator[Row]:
    for number, stored in read_objects(path):
        where = f"{path}, line {number}"
        if missing := [key for key in columns if key not in stored]:
            keys = ", ".join(stored) or "none"
            raise InputError(f"{where}: there is no key {missing[0]!r}, only {keys}; {_HOW}")
        yield number, [_cell(stored[key], f"{where}: {key!r}") for key in columns]


def _cell(value: Any, where: str) -> str:
    """Return a JSON value as a table's cell would hold it: 1.0 and true are the label 1."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return "|".join(_cell(item, where) for item in value)
    if isinstance(value, int) or (isinstance(value, float) and value.is_integer()):
        return str(int(value))
    if isinstance(value, float):
        return repr(value)
    raise InputError(f"{where} is {json.dumps(value)[:40]}, must be a string or a number")
