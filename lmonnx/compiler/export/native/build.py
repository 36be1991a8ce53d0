"""config.json and weights → one ONNX graph, streamed to disk a tensor at a time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx

from lmonnx.bundle.manifest import GraphSpec, Task
from lmonnx.compiler.checkpoint import Checkpoint
from lmonnx.compiler.export.native.blocks import Scope
from lmonnx.compiler.export.native.config import Config
from lmonnx.compiler.export.native.families import FAMILIES, Family
from lmonnx.compiler.export.native.params import Params
from lmonnx.compiler.graph import GraphBuilder, WeightFile, graph_spec
from lmonnx.errors import UnsupportedError


def build_graph(
    checkpoint: Checkpoint, task: Task, classes: int, folder: Path, file: str
) -> GraphSpec:
    """Write the checkpoint's graph to `folder`/`file` and its weights beside it.

    Args:
        checkpoint: What to build.
        task: Which head stands on the encoder.
        classes: How many labels there are; no matter to tasks without labels.
        folder: Where the graph goes.
        file: What it is called.

    Raises:
        UnsupportedError: The architecture, the task or a field of config.json is not built here.
        StageError: A tensor is missing, of another shape, or damaged.
    """
    family = native_family(checkpoint, task)
    config = Config(checkpoint.config)
    path = folder / file
    weights = WeightFile(path.with_name(f"{path.name}_data"))
    try:
        graph = GraphBuilder(weights)
        for name in family.inputs:
            graph.input(name, np.int64, ("batch_size", "sequence_length"))
        params, head = Params(checkpoint.weights(), family.prefix), family.heads[task]
        encoded = family.encoder(Scope(graph, params), config, first=head.reads_first(config))
        outputs = head(Scope(graph, params.of_head(task)), config, encoded, classes)
        config.finish()
        params.finish()
        for output in outputs:
            graph.output(output.value, output.name, np.float32, output.shape)
    finally:
        weights.close()
    model = graph.model(checkpoint.architecture)
    onnx.save(model, path)
    return graph_spec(model, file)


def native_family(checkpoint: Checkpoint, task: Task) -> Family:
    """Return the row of FAMILIES for a checkpoint.

    Raises:
        UnsupportedError: There is none, or none for this task; the message lists what there is.
    """
    family = FAMILIES.get(checkpoint.architecture)
    if family is None:
        raise UnsupportedError(
            f"the native export does not build {checkpoint.architecture!r}, only "
            f"{', '.join(sorted(FAMILIES))}; try --engine optimum"
        )
    if task not in family.heads:
        raise UnsupportedError(
            f"the native export builds {checkpoint.architecture} for "
            f"{', '.join(sorted(family.heads))}, not for {task}; try --engine optimum"
        )
    return family


def max_positions(checkpoint: Checkpoint, family: Family) -> int:
    """Return how many tokens the position table serves."""
    config = Config(checkpoint.config)
    rows = config.integer(family.positions)
    if family.offset_positions:
        rows -= config.integer("pad_token_id", 1, least=0) + 1
    return rows
