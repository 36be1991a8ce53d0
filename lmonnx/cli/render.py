"""Results → standard output: tables on a terminal, tab-separated lines or JSON elsewhere."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import click

# Text may hold what a terminal takes for commands, or what ends a line or a column.
_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160))}
_CONTROLS |= {ord("\t"): "\\t", ord("\n"): "\\n", ord("\r"): "\\r"}
_CONTROLS |= {code: f"\\u{code:04x}" for code in (0x2028, 0x2029, *range(0x202A, 0x202F))}


def printable(text: str) -> str:
    """Return `text` on one line, with control characters as escapes."""
    return text.translate(_CONTROLS)


def is_terminal() -> bool:
    """Say whether somebody reads standard output as it comes."""
    return sys.stdout is not None and sys.stdout.isatty()


def say(line: str) -> None:
    """Print a line, or several, and flush; what the encoding lacks becomes an escape."""
    encoding = _encoding()
    click.echo(line.encode(encoding, "backslashreplace").decode(encoding))


def say_piece(piece: str) -> None:
    """Print a part of a text as it comes: no line ends after it, and no terminal obeys it."""
    encoding = _encoding()
    clean = "\n".join(printable(line) for line in piece.split("\n")).replace("\\t", "\t")
    click.echo(clean.encode(encoding, "backslashreplace").decode(encoding), nl=False)


def to_json(value: Any) -> str:
    """Return one line of JSON: characters as they are where the output can carry them.

    NaN and infinities, which JSON does not have, are null.
    """
    plain = _finite(value)
    text = json.dumps(plain, ensure_ascii=False)
    try:
        text.encode(_encoding())
    except UnicodeEncodeError:  # another encoding than UTF-8, or half a surrogate pair
        return json.dumps(plain)
    return text


def table(
    columns: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    right: Sequence[str] = (),
    cut: Sequence[str] = (),
    header: bool = True,
) -> None:
    """Print rows: a table on a terminal, else a line a row with tabs between the cells.

    Args:
        columns: The heading of each column.
        rows: Cells, as many as there are columns.
        right: Columns of numbers.
        cut: Columns whose cells end in … on a terminal that is too narrow, instead of going on
            in the next line.
        header: Print the headings where no terminal reads.
    """
    clean = [[printable(cell) for cell in row] for row in rows]
    if not is_terminal():
        lines = [list(columns), *clean] if header else clean
        if lines:
            say("\n".join("\t".join(line) for line in lines))
        return
    _draw(columns, clean, right, cut)


def _draw(
    columns: Sequence[str], rows: list[list[str]], right: Sequence[str], cut: Sequence[str]
) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    grid = Table(
        box=None,
        pad_edge=False,
        header_style="bold",
        show_header=any(columns),
        expand=bool(cut),
    )
    for name in columns:
        justify: Any = "right" if name in right else "left"
        if name in cut:  # takes what the other columns leave
            grid.add_column(name, justify=justify, no_wrap=True, overflow="ellipsis", ratio=1)
        else:
            grid.add_column(name, justify=justify, no_wrap=bool(cut), overflow="fold")
    for row in rows:
        grid.add_row(*(Text(cell) for cell in row))
    Console().print(grid)


def figures(values: Mapping[str, str]) -> None:
    """Print names and values, a line each."""
    table(("", ""), list(values.items()), header=False)


def heading(text: str) -> None:
    """Print a line that stands over the table that follows."""
    say(f"\n{text}")


def size(count: int) -> str:
    """Return a number of bytes in MiB, or in KiB where that is less than one."""
    return f"{count / 2**20:.1f} MiB" if count >= 2**20 else f"{count / 2**10:.1f} KiB"


def inline(value: Any) -> str:
    """Return nested plain data as short text for one cell; what is empty is "none"."""
    if value in ((), [], {}):
        return "none"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {inline(item)}" for name, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(inline(item) for item in value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def _encoding() -> str:
    return getattr(sys.stdout, "encoding", None) or "utf-8"
