"""A file of labelled texts → examples; their labels → what the head of a model decides."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from lmonnx.bundle.manifest import Activation, Head
from lmonnx.errors import InputError, UnsupportedError
from lmonnx.measure.tables import BOM, is_index, read_rows
from lmonnx.runtime.tokenizer import Text

Labels: TypeAlias = NDArray[np.int64] | NDArray[np.float64]

_HEADER_HINT = "if the first line is a header, name the columns with --text and --label"


@dataclass(frozen=True, slots=True)
class Example:
    """A text, or a pair as a tuple, and its label as the file writes it."""

    text: Text
    label: str


def read_examples(
    path: Path, *, text: str = "0", label: str | None = "1", text_pair: str | None = None
) -> list[Example]:
    """Read labelled texts from .tsv (plain tabs), .csv (quoted) or .jsonl (an object a line).

    A column is an index from 0, or a name. When all are indexes the file has no header; when any
    is a name its first row is the header. Blank lines are skipped. In .jsonl every column is a
    key, and the defaults "0" and "1" mean "text" and "label"; a list of labels is joined by "|".

    Args:
        path: UTF-8, with or without a byte order mark.
        text: The column of the text.
        label: The column of the label; None reads none, and labels are "".
        text_pair: The column of a second text; None where texts are single.

    Raises:
        InputError: The file is missing, empty, not UTF-8 or of another kind, a row has more or
            fewer cells than the first, or a column is not there; file and line are named.
    """
    if path.suffix.lower() == ".jsonl":
        text = "text" if text == "0" else text
        label = "label" if label == "1" else label
    parts = [text] if text_pair is None else [text, text_pair]
    columns = parts if label is None else [*parts, label]
    examples = []
    for line, cells in read_rows(path, columns):
        found = cells.pop() if label is not None else ""
        if not all(map(_is_unicode, cells)):
            raise InputError(f"{path}, line {line}: half a surrogate pair; it is no valid text")
        examples.append(Example(cells[0] if len(cells) == 1 else (cells[0], cells[1]), found))
    if not examples:
        raise InputError(f"{path} has no examples; give a file with one a line")
    return examples


def read_texts(lines: Iterable[bytes], where: str) -> Iterator[str]:
    r"""Yield one text a line, in bounded memory; an empty line is the empty text.

    Args:
        lines: A binary file; only "\n" and "\r\n" end a line.
        where: The file's name, for the error.

    Raises:
        InputError: A line is not UTF-8.
    """
    for number, line in enumerate(lines, 1):
        if number == 1:
            line = line.removeprefix(BOM)
        try:
            yield line.removesuffix(b"\n").removesuffix(b"\r").decode("utf-8")
        except UnicodeDecodeError as error:
            raise InputError(
                f"{where}, line {number}: not UTF-8; save the file as UTF-8"
            ) from error


def label_ids(examples: Sequence[Example], head: Head) -> Labels:
    """Return the examples' labels as the head gives them.

    A label is a name (as it is, else regardless of case) or an index, but a name alone where the
    names are numbers. With several labels to a text its cell lists them, each once, separated by
    "|" or ",", and may be empty. A model of one label takes numbers; if they are all 0 or 1 and
    its activation is the sigmoid, they are decisions.

    Returns:
        (N,) int64, classes; or (N, C) int64, yes or no to each label; or (N,) float64, values.

    Raises:
        InputError: A label is unknown or comes twice; it and its row (from 1) are named.
        UnsupportedError: The model gives several values a text.
    """
    if head.activation is Activation.SOFTMAX:
        return np.array([_find(e.label, head, n) for n, e in enumerate(examples, 1)], np.int64)
    if len(head.labels) == 1:
        values = np.array([_value(e.label, head, n) for n, e in enumerate(examples, 1)])
        binary = head.activation is Activation.SIGMOID and set(values.tolist()) <= {0.0, 1.0}
        return values.astype(np.int64)[:, None] if binary else values
    if head.activation is Activation.NONE:
        raise UnsupportedError(f"a regression to {len(head.labels)} values cannot be evaluated")
    found = np.zeros((len(examples), len(head.labels)), np.int64)
    for row, example in enumerate(examples):
        places = [_find(name, head, row + 1) for name in _names(example.label, head)]
        if len(set(places)) < len(places):  # a 0 or 1 for each label would be read as indexes
            raise InputError(
                f"row {row + 1} has a label twice in {example.label[:60]!r}; list the names or "
                "indexes of those that hold, each once"
            )
        found[row, places] = 1
    return found


def numbers(examples: Sequence[Example]) -> NDArray[np.float64]:
    """Return the examples' labels as numbers, (N,).

    Raises:
        InputError: A label is no finite number; it and its row (from 1) are named.
    """
    return np.array([_number(e.label, n, "") for n, e in enumerate(examples, 1)])


def _is_unicode(text: str) -> bool:
    return text.isascii() or not any("\ud800" <= c <= "\udfff" for c in text)


def _names(cell: str, head: Head) -> list[str]:
    """Return the labels that a cell lists; a label with a comma in it may stand alone."""
    if cell.strip() in head.labels:
        return [cell]
    separator = "|" if "|" in cell else ","
    return [name for name in cell.split(separator) if name.strip()]


def _find(label: str, head: Head, row: int) -> int:
    name = label.strip()
    if name in head.labels:
        return head.labels.index(name)
    alike = [i for i, known in enumerate(head.labels) if known.casefold() == name.casefold()]
    if len(alike) == 1:
        return alike[0]
    named = all(map(is_index, head.labels))  # by numbers: some would be names, others indexes
    if not named and is_index(name) and int(name) < len(head.labels):
        return int(name)
    raise InputError(
        f"row {row} has the label {name[:60]!r}, the model has {_shown(head)}"
        f"{'' if named else ' or their indexes'}; {_HEADER_HINT}"
    )


def _value(label: str, head: Head, row: int) -> float:
    name = label.strip()
    if head.activation is Activation.SIGMOID and name in {"", head.labels[0]}:
        return float(name != "")
    return _number(label, row, f", the model gives a number ({_shown(head)})")


def _number(label: str, row: int, wanted: str) -> float:
    name = label.strip()
    try:
        value = float(name)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        wanted = wanted or ", which is no number"
        raise InputError(f"row {row} has the label {name[:60]!r}{wanted}; {_HEADER_HINT}")
    return value


def _shown(head: Head) -> str:
    most = 10
    more = f" and {len(head.labels) - most} more" if len(head.labels) > most else ""
    return ", ".join(head.labels[:most]) + more
