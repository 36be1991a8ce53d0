"""Where tokens stand, in a traced graph: tables of vectors that are looked up by place.

Which lookups those are is not read from nodes, which differ by the versions of exporters, but found
by running what makes the indices: token q after P others is looked up in row `first` + P + q.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto

from lmonnx.compiler.export.adopt_probe import Probe
from lmonnx.errors import UnsupportedError
from lmonnx.runtime.session import Arrays


@dataclass(frozen=True, slots=True)
class Lookup:
    """A table's lookup by place.

    Attributes:
        node: The Gather.
        first: The row of the first place.
        places: How many places there are rows for.
    """

    node: onnx.NodeProto
    first: int
    places: int


@dataclass(frozen=True, slots=True)
class Trial:
    """Inputs of a graph whose tokens, (rows, Q), stand after `past` others."""

    inputs: Arrays
    past: int

    @property
    def tokens(self) -> NDArray[Any]:
        """Return the ids, (rows, Q)."""
        return self.inputs["input_ids"]


def find_lookups(
    model: onnx.ModelProto, folder: Path, trials: Sequence[Trial], where: str
) -> list[Lookup]:
    """Return the lookups by place, in the order of the graph.

    Args:
        model: The graph, whose constants are initializers.
        folder: What its weights are in.
        trials: Of several lengths and pasts, with no padding among the tokens.
        where: What the graph is called in errors.

    Raises:
        UnsupportedError: Places of a table do not follow each other.
    """
    tables = {
        tensor.name: tensor.dims[0]
        for tensor in model.graph.initializer
        if tensor.data_type == TensorProto.FLOAT and len(tensor.dims) == 2
    }
    made = {name for node in model.graph.node for name in node.output}
    lookups = [
        node
        for node in model.graph.node
        if node.op_type == "Gather" and node.input[0] in tables and node.input[1] in made
    ]
    if not lookups:
        return []
    names = {node.input[1]: TensorProto.INT64 for node in lookups}
    probe = Probe(model, folder, names)
    found = [probe.run(trial.inputs) for trial in trials]
    by_index = {name: _first(name, trials, found, where) for name in names}
    return [
        Lookup(node, first, tables[node.input[0]] - first)
        for node in lookups
        if (first := by_index[node.input[1]]) is not None
    ]


def _first(
    name: str,
    trials: Sequence[Trial],
    found: Sequence[Mapping[str, NDArray[Any]]],
    where: str,
) -> int | None:
    """Return the row of the first place; None where indices are not of the tokens' places."""
    rows: set[int] = set()
    for trial, values in zip(trials, found, strict=True):
        index = values[name]
        length = trial.tokens.shape[1]
        if index.size not in {length, trial.tokens.size}:
            return None  # by pairs of places, as T5's distances are
        steps = index.reshape(-1, length) - np.arange(trial.past, trial.past + length)
        rows.update(steps.reshape(-1).tolist())
    if len(rows) == 1:
        return rows.pop()
    if all(_are_words(trial, values[name]) for trial, values in zip(trials, found, strict=True)):
        return None
    raise UnsupportedError(
        f"{where} looks up {name}, which neither counts the tokens one by one nor is their ids; "
        "take another export"
    )


def _are_words(trial: Trial, index: NDArray[Any]) -> bool:
    return index.size == trial.tokens.size and bool((index.ravel() == trial.tokens.ravel()).all())
