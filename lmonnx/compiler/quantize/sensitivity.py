"""What each layer alone costs when it is quantized, measured at the model's end."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lmonnx.bundle.bundle import Bundle
from lmonnx.bundle.manifest import GraphSpec
from lmonnx.compiler.quantize.calibration import text_batches
from lmonnx.compiler.quantize.dynamic import SWITCHES, Granularity, write_int8
from lmonnx.progress import Progress, track
from lmonnx.runtime.batch import Batch
from lmonnx.runtime.session import Session, SessionConfig
from lmonnx.runtime.tokenizer import Text


def rank_layers(
    bundle: Bundle,
    layers: Sequence[str],
    texts: Sequence[Text],
    *,
    granularity: Granularity,
    progress: Progress,
) -> list[str]:
    """Return layers by what they cost, worst first.

    The cost is the mean squared Δlogit when that layer alone is quantized. One graph holds every
    layer in both precisions with a switch a layer, so nothing is built or loaded twice.

    Args:
        bundle: The float bundle.
        layers: Names to rank.
        texts: What to measure on.
        granularity: What shares an activation scale.
        progress: Told after every layer.
    """
    graph = bundle.manifest.graphs["model"]
    with tempfile.TemporaryDirectory(prefix="lmonnx-switches-") as folder:
        path = Path(folder) / "model.onnx"
        spec = write_int8(
            bundle.file(graph.file),
            path,
            path.name,
            granularity=granularity,
            layers=layers,
            optimized=graph.optimized,
            switched=True,
        )
        costs = _costs(bundle, path, spec, layers, texts, progress)
    return [layers[i] for i in np.argsort(-costs, kind="stable")]


def _costs(
    bundle: Bundle,
    path: Path,
    spec: GraphSpec,
    layers: Sequence[str],
    texts: Sequence[Text],
    progress: Progress,
) -> NDArray[np.float64]:
    session = Session(path, spec, SessionConfig())
    ready = text_batches(bundle, session, texts)

    def logits(switches: NDArray[np.bool_]) -> NDArray[np.float32]:
        return np.concatenate([_run(session, batch, switches) for batch in ready])

    none = np.zeros(len(layers), np.bool_)
    exact = logits(none)
    costs = np.zeros(len(layers))
    for index in track(range(len(layers)), "measuring layers", progress):
        alone = none.copy()
        alone[index] = True
        costs[index] = np.square(logits(alone) - exact, dtype=np.float64).mean()
    return costs


def _run(session: Session, batch: Batch, switches: NDArray[np.bool_]) -> NDArray[np.float32]:
    return session.run({**batch.inputs, SWITCHES: switches})["logits"]
