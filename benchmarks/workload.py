"""Read a workload: which model, which items, which contenders, and what speed is asked of whom."""

from __future__ import annotations

import json
import os
import random
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from environments import ROOT

WORKLOADS = ROOT / "benchmarks" / "workloads"
FIRST_WORD = 1000  # ids below are special or unused in BERT's vocabulary


@dataclass(frozen=True, slots=True)
class Wanted:
    """How much faster one contender must be than another."""

    faster: str
    than: str
    ratio: float


@dataclass(frozen=True, slots=True)
class Workload:
    """A workload as its TOML states it; `model` and `data` say where to find them."""

    name: str
    kind: str  # "ragged": texts → labels; "fixed": ids → logits
    unit: str
    reference: tuple[str, ...]
    subject: str
    contenders: tuple[str, ...]
    wanted: tuple[Wanted, ...]
    model: dict[str, str]
    data: dict[str, str]
    shape: tuple[int, int]  # of a fixed workload
    seed: int
    repeats: int  # how often a round answers all items, each time a sample


@dataclass(frozen=True, slots=True)
class Items:
    """What every contender answers: texts, or rows of token ids; and the right labels, if known."""

    items: list[Any]
    labels: list[str]
    units: int  # how many texts or tokens these are
    source: str


def read_workload(name: str) -> Workload:
    """Read `workloads/<name>.toml`."""
    fields = tomllib.loads((WORKLOADS / f"{name}.toml").read_text(encoding="utf-8"))
    return Workload(
        name=name,
        kind=fields["kind"],
        unit=fields["unit"],
        reference=tuple(fields["reference"]),
        subject=fields["subject"],
        contenders=tuple(fields["contenders"]),
        wanted=tuple(Wanted(**wanted) for wanted in fields["wanted"]),
        model=fields["model"],
        data=fields.get("data", {}),
        shape=(fields.get("rows", 0), fields.get("length", 0)),
        seed=fields.get("seed", 0),
        repeats=fields.get("repeats", 1),
    )


def names() -> list[str]:
    """Return every workload there is."""
    return sorted(path.stem for path in WORKLOADS.glob("*.toml"))


def locate(place: dict[str, str]) -> Path:
    """Return the shared file or folder, or the repository's own where there is no shared one."""
    shared = Path(os.environ.get("LMONNX_SHARED") or ROOT.parent / "shared") / place["shared"]
    return shared if shared.exists() else ROOT / place["fallback"]


def read_items(workload: Workload, model: Path, data: Path | None) -> Items:
    """Return the workload's items; `data` replaces the texts of a ragged one."""
    if workload.kind == "fixed":
        return _random_ids(workload)
    return read_texts(data or locate(workload.data), model)


def read_texts(path: Path, model: Path) -> Items:
    """Read `text TAB label` lines; a label is a name, or an id that the model's config names."""
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    rows = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines() if line]
    labels = [config["id2label"].get(row[1], row[1]) for row in rows]
    return Items([row[0] for row in rows], labels, len(rows), _source(path))


def _source(path: Path) -> str:
    """Return a data file's last two names: enough to know it, and no folder of this machine."""
    return "/".join(path.parts[-2:])


def _random_ids(workload: Workload) -> Items:
    rows, length = workload.shape
    dice = random.Random(workload.seed)
    ids = [[dice.randrange(FIRST_WORD, 30000) for _ in range(length)] for _ in range(rows)]
    return Items(ids, [], rows * length, f"{rows} × {length} random ids, seed {workload.seed}")
