"""What flows into a graph's products on text: second moments and peaks."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from lmonnx.bundle.bundle import Bundle
from lmonnx.compiler.graph import graph_spec, save_graph
from lmonnx.compiler.quantize.layers import load_direct
from lmonnx.measure.perplexity import window_inputs
from lmonnx.progress import Progress, track
from lmonnx.runtime.session import Arrays, Session, SessionConfig

# Of the moments that are gathered in one pass over the text; a larger model takes several.
_PASS_BYTES = 2**30
_ROWS = 512  # that are multiplied at once

Ids = NDArray[np.int64]
Feed = Callable[[], Arrays]  # makes the inputs of one run when it is their turn


@dataclass(frozen=True, slots=True)
class Moments:
    """What a value of K channels was on the calibration text.

    `second` is E[x·xᵀ] over tokens, (K, K); `peak` the largest magnitude, (K,); `typical` the
    median over tokens of the largest magnitude of each, `least` and `most` the ends of its range.
    """

    second: NDArray[np.float32]
    peak: NDArray[np.float32]
    typical: float = 0.0
    least: float = -np.inf
    most: float = np.inf

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
    feeds = [partial(window_inputs, ids, generation.cache) for ids in windows]
    return observe_feeds(bundle.file(graph.file), sizes, feeds, progress)


def observe_feeds(
    source: Path, sizes: Mapping[str, int], feeds: Sequence[Feed], progress: Progress
) -> Iterator[dict[str, Moments]]:
    """Yield the moments of some values of any graph over some runs, whose rows all count.

    Args:
        source: The float graph.
        sizes: Names of float values (…, K), in the order of the graph, and their K.
        feeds: What makes the inputs of each run.
        progress: Told after every run.
    """
    with tempfile.TemporaryDirectory(prefix="lmonnx-calibration-") as folder:
        path = Path(folder) / "model.onnx"
        model = load_direct(source)
        save_graph(model, source.parent, path, path.name)
        groups = list(_groups(sizes))
        for number, names in enumerate(groups, 1):
            session = _session(model, path, names)
            what = "calibrating" if len(groups) == 1 else f"calibrating {number}/{len(groups)}"
            yield _observed(session, names, track(feeds, what, progress))


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


def _observed(session: Session, names: Sequence[str], feeds: Iterator[Feed]) -> dict[str, Moments]:
    sums = {name: _Sum() for name in names}
    for feed in feeds:
        outputs = session.run(feed())
        for name in names:
            sums[name].add(outputs[name].reshape(-1, outputs[name].shape[-1]))
    return {name: each.moments() for name, each in sums.items()}


@dataclass(slots=True)
class _Sum:
    """Rows of a value as they come; those of short runs wait until their product pays."""

    waiting: list[NDArray[np.float32]] = field(default_factory=list)
    second: NDArray[np.float32] | None = None
    peak: NDArray[np.float32] | None = None
    peaks: list[NDArray[np.float32]] = field(default_factory=list)
    least: float = np.inf
    most: float = -np.inf

    def add(self, rows: NDArray[np.float32]) -> None:
        self.waiting.append(rows)
        if sum(map(len, self.waiting)) >= _ROWS:
            self._flush()

    def moments(self) -> Moments:
        if self.waiting:
            self._flush()
        if self.second is None or self.peak is None:
            raise ValueError("there is nothing to observe")
        of_rows = np.concatenate(self.peaks)
        mean = self.second / np.float32(len(of_rows))
        return Moments(mean, self.peak, float(np.median(of_rows)), self.least, self.most)

    def _flush(self) -> None:
        rows = np.concatenate(self.waiting)
        self.waiting.clear()
        sizes = np.abs(rows)
        self.peaks.append(sizes.max(axis=1))
        self.least = min(self.least, float(rows.min()))
        self.most = max(self.most, float(rows.max()))
        largest, product = sizes.max(axis=0), rows.T @ rows
        if self.second is None or self.peak is None:
            self.second, self.peak = product, largest
        else:
            self.second += product
            np.maximum(self.peak, largest, out=self.peak)
