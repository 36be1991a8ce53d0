"""Raw samples → rows of figures → a table in Markdown."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Result = dict[str, Any]
Rows = list[list[str]]
UNKNOWN = "–"  # a column that holds nothing else is left out


def _share(value: float) -> str:
    return f"{value:.4f}"


# What quality.judge states → its column's head and how it is written.
QUALITIES: Mapping[str, tuple[str, Callable[[float], str]]] = {
    "accuracy": ("accuracy", _share),
    "agreement": ("labels as fp32", _share),
    "difference": ("max Δlogit / range", "{:.1e}".format),
    "spearman": ("Spearman", _share),
    "cosine": ("cosine to fp32", "{:.6f}".format),
}


@dataclass(frozen=True, slots=True)
class Score:
    """A contender's best variant: its speed, and how right it is; None where it cannot be told."""

    variant: str
    speed: float  # units a second, the best of the rounds
    quality: Mapping[str, float | None]  # by QUALITIES


def score(result: Result, name: str) -> Score:
    """Return the score of a contender's fastest variant."""
    variants = result["contenders"][name]["variants"]
    variant = min(variants, key=lambda key: min(variants[key]["seconds"]))
    quality = variants[variant]["quality"]
    return Score(variant, result["units"] / min(variants[variant]["seconds"]), quality)


def contender_rows(result: Result) -> Rows:
    """Return a header and a line a contender, the slowest first."""
    unit, subject = result["unit"], result["subject"]
    scores = {name: score(result, name) for name in result["contenders"]}
    base = scores[subject].speed if subject in scores else None
    head = ["system", "variant", f"{unit}/s", *(title for title, _ in QUALITIES.values())]
    rows = [[*head, f"{result['titles'][subject]} is"]]
    for name, row in sorted(scores.items(), key=lambda item: item[1].speed):
        rows.append(
            [
                result["titles"][name],
                row.variant,
                f"{row.speed:.0f}",
                *_qualities(row),
                f"{base / row.speed:.2f} ×" if base else UNKNOWN,
            ]
        )
    told = [any(cell != UNKNOWN for cell in column[1:]) for column in zip(*rows, strict=True)]
    return [[cell for cell, is_told in zip(row, told, strict=True) if is_told] for row in rows]


def wanted_rows(result: Result) -> Rows:
    """Return a header and a line for each ratio that is asked for, where both ran; else nothing."""
    rows: Rows = []
    for faster, than, ratio in result["wanted"]:
        if not {faster, than} <= result["contenders"].keys():
            continue
        got = score(result, faster).speed / score(result, than).speed
        titles = [result["titles"][faster], result["titles"][than]]
        met = "yes" if got >= ratio else "no"
        rows.append([*titles, f"{got:.2f} ×", f"≥ {ratio} ×", met])
    return [["faster", "than", "ratio", "asked", "met"], *rows] if rows else []


def render(rows: Rows) -> str:
    """Return rows as a Markdown table, its columns aligned; the first row is the header."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [_line(row, widths) for row in rows]
    return "\n".join([lines[0], _line(["-" * width for width in widths], widths), *lines[1:]])


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    return f"| {' | '.join(cell.ljust(w) for cell, w in zip(cells, widths, strict=True))} |"


def _qualities(row: Score) -> list[str]:
    found = ((row.quality.get(name), write) for name, (_, write) in QUALITIES.items())
    return [UNKNOWN if value is None else write(value) for value, write in found]
