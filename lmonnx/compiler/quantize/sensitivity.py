"""What each layer alone costs when it is quantized, measured at the model's end."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lmonnx.bundle.bundle import Bundle
from lmonnx.bundle.manifest import GraphSpec
from lmonnx.compiler.quantize.calibration import Calibration
from lmonnx.compiler.quantize.dynamic import SWITCHES, Granularity, write_int8
from lmonnx.measure.decisions import answer_all
from lmonnx.progress import Progress, track
from lmonnx.runtime.pipelines import PIPELINES
from lmonnx.runtime.session import Session, SessionConfig
from lmonnx.runtime.tokenizer import Long, Text


def rank_layers(
    bundle: Bundle,
    layers: Sequence[str],
    texts: Sequence[Text],
    *,
    granularity: Granularity,
    progress: Progress,
    calibration: Calibration | None = None,
) -> list[str]:
    """Return layers by what they cost, worst first.

    The cost is the mean squared Δ of the raw outputs when that layer alone is quantized. One
    graph holds every layer in both precisions with a switch a layer, so nothing is built or
    loaded twice.

    Args:
        bundle: The float bundle.
        layers: Names to rank.
        texts: What to measure on.
        granularity: What shares an activation scale.
        progress: Told after every layer.
        calibration: What flows into the layers, as `write_int8` takes it.
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
            calibration=calibration,
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
    # A thread a batch would run batches in a session of its own, past the switches.
    model = PIPELINES[bundle.manifest.task](bundle, SessionConfig(thread_per_batch=False))
    switched = _Switched(path, spec, len(layers))
    model.session = switched

    def outputs(switches: NDArray[np.bool_]) -> NDArray[np.float32]:
        switched.switches = switches
        return np.concatenate([r.ravel() for r in answer_all(model, texts, long=Long.TRUNCATE)])

    none = np.zeros(len(layers), np.bool_)
    exact = outputs(none)
    costs = np.zeros(len(layers))
    for index in track(range(len(layers)), "measuring layers", progress):
        alone = none.copy()
        alone[index] = True
        costs[index] = np.square(outputs(alone) - exact, dtype=np.float64).mean()
    return costs


class _Switched(Session):
    """A session of the graph of both precisions that a pipeline takes for its own."""

    def __init__(self, path: Path, spec: GraphSpec, layers: int) -> None:
        super().__init__(path, spec, SessionConfig())
        self.inputs -= {SWITCHES}
        self.switches = np.zeros(layers, np.bool_)

    def run(self, inputs: Any) -> dict[str, NDArray[Any]]:
        return super().run({**inputs, SWITCHES: self.switches})
