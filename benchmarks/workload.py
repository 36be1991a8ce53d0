"""Read a workload: which model, which items, which contenders, and what speed is asked of whom."""

from __future__ import annotations

import csv
import json
import os
import random
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from environments import ROOT

WORKLOADS = ROOT / "benchmarks" / "workloads"
# What the items are, and what is answered.
KINDS = ("ragged", "fixed", "vectors")  # texts → labels, ids → logits, texts → vectors
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
    kind: str  # of KINDS
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
    max_length: int  # where everyone cuts a text, in tokens; 0 is unstated
    lengths: tuple[int, int]  # of texts to be made of the data: the least and most tokens
    count: int  # of such texts; 0: the data are the texts


@dataclass(frozen=True, slots=True)
class Items:
    """What every contender answers: texts, or rows of token ids; and what is right, if known."""

    items: list[Any]
    labels: list[str]
    units: int  # how many texts or tokens these are
    source: str
    scores: Sequence[float] = ()  # how alike items 2 i and 2 i + 1 are

    def first(self, count: int) -> Items:
        """Return the first `count` of them."""
        items = self.items[:count]
        units = self.units * len(items) // len(self.items)
        return Items(items, self.labels[:count], units, self.source, self.scores[: count // 2])


def read_workload(name: str) -> Workload:
    """Read `workloads/<name>.toml`."""
    fields = tomllib.loads((WORKLOADS / f"{name}.toml").read_text(encoding="utf-8"))
    if fields["kind"] not in KINDS:
        raise ValueError(f"{name}: kind is {fields['kind']!r}, must be one of {', '.join(KINDS)}")
    least, most = fields.get("lengths", (0, 0))
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
        max_length=fields.get("max_length", 0),
        lengths=(least, most),
        count=fields.get("count", 0),
    )


def names() -> list[str]:
    """Return every workload there is."""
    return sorted(path.stem for path in WORKLOADS.glob("*.toml"))


def locate(place: Mapping[str, str]) -> Path:
    """Return the shared file or folder, or the repository's own where there is no shared one.

    A `cached` one is in LMONNX_MODELS, else in the user's cache, or is to be put there.

    Raises:
        FileNotFoundError: There is neither.
    """
    if "cached" in place:
        models = os.environ.get("LMONNX_MODELS") or Path.home() / ".cache" / "lmonnx" / "models"
        return Path(models) / place["cached"]
    shared = Path(os.environ.get("LMONNX_SHARED") or ROOT.parent / "shared") / place["shared"]
    if not shared.exists() and "fallback" not in place:
        raise FileNotFoundError(f"{shared} is absent; set LMONNX_SHARED to the folder that has it")
    return shared if shared.exists() else ROOT / place["fallback"]


def read_items(workload: Workload, model: Path, data: Path | None) -> Items:
    """Return the workload's items; `data` replaces its texts."""
    if workload.kind == "fixed":
        return _random_ids(workload)
    path = data or locate(workload.data)
    return _READERS.get(path.suffix, read_texts)(path, model)


def read_texts(path: Path, model: Path) -> Items:
    """Read `text TAB label` lines; a label is a name, or an id that the model's config names."""
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    rows = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines() if line]
    labels = [config["id2label"].get(row[1], row[1]) for row in rows]
    return Items([row[0] for row in rows], labels, len(rows), _source(path))


def read_pairs(path: Path, model: Path) -> Items:
    """Read `sentence1,sentence2,score` lines: the sentences of a pair stand side by side."""
    del model
    with path.open(encoding="utf-8", newline="") as lines:
        rows = list(csv.reader(lines))
    texts = [text for row in rows for text in row[:2]]
    return Items(texts, [], len(texts), _source(path), [float(row[2]) for row in rows])


def read_list(path: Path, model: Path) -> Items:
    """Read a JSON list of texts."""
    del model
    texts = json.loads(path.read_text(encoding="utf-8"))
    return Items(texts, [], len(texts), _source(path))


# File name's end → who reads it; any other is read by `read_texts`.
_READERS: Mapping[str, Callable[[Path, Path], Items]] = {".csv": read_pairs, ".json": read_list}


def _source(path: Path) -> str:
    """Return a data file's last two names: enough to know it, and no folder of this machine."""
    return "/".join(path.parts[-2:])


def _random_ids(workload: Workload) -> Items:
    rows, length = workload.shape
    dice = random.Random(workload.seed)
    ids = [[dice.randrange(FIRST_WORD, 30000) for _ in range(length)] for _ in range(rows)]
    return Items(ids, [], rows * length, f"{rows} × {length} random ids, seed {workload.seed}")
