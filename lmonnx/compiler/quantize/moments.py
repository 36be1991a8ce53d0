"""What flows into a decoder's products on plain text: second moments and peaks."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from lmonnx.bundle.bundle import Bundle
from lmonnx.bundle.manifest import CacheSpec
from lmonnx.compiler.graph import graph_spec, load_graph, save_graph
from lmonnx.measure.perplexity import window_inputs
from lmonnx.progress import Progress, track
from lmonnx.runtime.session import Session, SessionConfig

# Of the moments that are gathered in one pass over the text; a larger model takes several.
_PASS_BYTES = 2**30

Ids = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Moments:
    """What a value of K channels was on the calibration text.

    `second` is E[x·xᵀ] over tokens, (K, K); `peak` the largest magnitude, (K,).
    """

    second: NDArray[np.float32]
    peak: NDArray[np.float32]

    @property
    def importance(self) -> NDArray[np.float32]:
        """Return E[x²] of each channel: how much an error of its weights costs."""
        return np.ascontiguousarray(np.diag(self.second))

    def divided(self, factors: NDArray[np.float32] | None) -> Moments:
        """Return the moments of the value divided by factors, (K,)."""
        if factors is None:
            return self
        return Moments(self.second / factors / factors[:, None], self.peak / factors)


def observe_moments(
    bundle: Bundle, sizes: Mapping[str, int], windows: Sequence[Ids], progress: Progress
) -> Iterator[dict[str, Moments]]:
    """Yield the moments of some values of a decoder's graph, as many at once as memory allows.

    Args:
        bundle: The float decoder.
        sizes: Names of float values (1, S, K), in the order of the graph, and their K.
        windows: Token ids, (S,) each.
        progress: Told after every window.
    """
    graph, generation = bundle.manifest.graphs["model"], bundle.manifest.generation
    if generation is None:
        raise TypeError("only decoders have moments")
    source = bundle.file(graph.file)
    with tempfile.TemporaryDirectory(prefix="lmonnx-calibration-") as folder:
        path = Path(folder) / "model.onnx"
        model = load_graph(source)
        save_graph(model, source.parent, path, path.name)
        groups = list(_groups(sizes))
        for number, names in enumerate(groups, 1):
            session = _session(model, path, names)
            what = "calibrating" if len(groups) == 1 else f"calibrating {number}/{len(groups)}"
            yield _observed(session, names, track(windows, what, progress), generation.cache)


def _groups(sizes: Mapping[str, int]) -> Iterator[list[str]]:
    group: list[str] = []
    taken = 0
    for name, size in sizes.items():
        needed = 4 * size * size
        if group and taken + needed > _PASS_BYTES:
            yield group
            group, taken = [], 0
        group.append(name)
        taken += needed
    if group:
        yield group


def _session(model: onnx.ModelProto, path: Path, names: Collection[str]) -> Session:
    """Load a graph that gives nothing but the named values."""
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    del watched.graph.output[:]
    watched.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names
    )
    onnx.save(watched, path)
    return Session(path, graph_spec(watched, path.name), SessionConfig())


def _observed(
    session: Session, names: Sequence[str], windows: Iterator[Ids], cache: CacheSpec
) -> dict[str, Moments]:
    second: dict[str, NDArray[np.float32]] = {}
    peak: dict[str, NDArray[np.float32]] = {}
    tokens = 0
    for ids in windows:
        outputs = session.run(window_inputs(ids, cache))
        tokens += len(ids)
        for name in names:
            rows = outputs[name].reshape(-1, outputs[name].shape[-1])
            largest = np.abs(rows).max(axis=0)
            if name in second:
                second[name] += rows.T @ rows
                np.maximum(peak[name], largest, out=peak[name])
            else:
                second[name], peak[name] = rows.T @ rows, largest
    return {name: Moments(second[name] / np.float32(tokens), peak[name]) for name in names}
