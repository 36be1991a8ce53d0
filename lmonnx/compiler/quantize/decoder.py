"""A decoder's bundle → one of integers: by blocks, by rows, or a graph of each."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from lmonnx.bundle.bundle import Bundle
from lmonnx.bundle.draft import Draft, draft_at
from lmonnx.bundle.manifest import GraphSpec, Manifest
from lmonnx.compiler.graph import load_graph, read_weight
from lmonnx.compiler.quantize.activations import balanced_factors, channel_factors
from lmonnx.compiler.quantize.blocks import BITS, BLOCK_SIZES
from lmonnx.compiler.quantize.decoder_graph import Recipe, write_decoder
from lmonnx.compiler.quantize.folding import Factors, find_folds
from lmonnx.compiler.quantize.layers import Layer, find_layers
from lmonnx.compiler.quantize.moments import Moments, observe_moments
from lmonnx.compiler.quantize.own_text import write_text
from lmonnx.compiler.quantize.recipes import DROPS, PRECISIONS, Method, Plan, forms, plans
from lmonnx.compiler.quantize.text_gate import calibration_windows, open_text_gate
from lmonnx.compiler.quantize.weights import EIGHT_BITS
from lmonnx.compiler.quantize.writer import Known
from lmonnx.compiler.stage import copy_text, finish, make_step
from lmonnx.errors import InputError, StageError
from lmonnx.progress import Progress

Ids = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Choice:
    """What was asked for; `max_drop` is how much perplexity may rise, None the method's own."""

    method: Method
    bits: int
    block_size: int
    head_bits: int
    max_drop: float | None
    calibrate: bool

    def __post_init__(self) -> None:
        for name, value, allowed in (
            ("bits", self.bits, BITS),
            ("block_size", self.block_size, BLOCK_SIZES),
            ("head_bits", self.head_bits, BITS),
        ):
            if value not in allowed:
                stated = ", ".join(map(str, allowed))
                raise InputError(f"{name} is {value}, must be one of {stated}")

    @property
    def limit(self) -> float:
        """Return how much perplexity may rise, as a share."""
        return DROPS[self.method, self.bits] if self.max_drop is None else self.max_drop


@dataclass(frozen=True, slots=True)
class _Source:
    """The input bundle's graph, and what was seen in it on calibration text."""

    bundle: Bundle
    path: Path
    model: onnx.ModelProto
    layers: tuple[Layer, ...]
    moments: Mapping[str, Moments]

    def matrix(self, layer: Layer) -> NDArray[np.float32]:
        """Return a layer's weights (K, N)."""
        tensor = next(t for t in self.model.graph.initializer if t.name == layer.weight)
        stored: NDArray[np.float32] = read_weight(tensor, self.path.parent)
        return stored.T if layer.rows else stored


def quantize_decoder(
    bundle: Bundle,
    target: Path,
    choice: Choice,
    *,
    text: str | None,
    keep: Collection[str],
    force: bool,
    progress: Progress,
) -> Bundle:
    """Write a decoder of integers whose perplexity rises by at most `choice.limit`.

    Args:
        bundle: A float32 decoder.
        target: The new bundle's folder.
        choice: How.
        text: The gate's; the shipped sentences without one.
        keep: Names of layers that stay in float32.
        force: Replace a bundle that is there.
        progress: Told how far calibration and gate are.

    Raises:
        GateError: Perplexity rises by more; nothing is written.
        StageError: There is nothing to quantize.
    """
    gate = open_text_gate(bundle, text, choice.limit)
    planned = plans(choice.method, choice.bits, choice.block_size, choice.head_bits)
    calibrated = choice.calibrate and any(plan.is_calibrated for plan in planned)
    started = time.perf_counter()
    source = _source(bundle, calibrated=calibrated, progress=progress)
    seconds = {"calibration": time.perf_counter() - started}
    with draft_at(target, source=bundle.path, force=force) as draft:
        started = time.perf_counter()
        manifest = _write(source, draft, planned, keep)
        seconds["rounding"] = time.perf_counter() - started
        started = time.perf_counter()
        metrics = gate.measure(Bundle.open(draft.path, verify=False), progress)
        seconds["gate"] = time.perf_counter() - started
        metrics |= {
            "layers": len(source.layers),
            "widened": [],
            "seconds": {name: round(spent, 1) for name, spent in seconds.items()},
        }
        step = make_step("quantize", _options(choice, keep), metrics=metrics)
        finish(draft, manifest.with_step(step))
    return Bundle.open(target, verify=False)


def _options(choice: Choice, keep: Collection[str]) -> dict[str, Any]:
    stated: dict[str, Any] = {
        "method": choice.method.value,
        "max_drop": choice.limit,
        "calibrate": choice.calibrate,
        "keep": sorted(keep),
    }
    if choice.method is not Method.DYNAMIC:
        stated |= {
            "bits": choice.bits,
            "block_size": choice.block_size,
            "head_bits": choice.head_bits,
        }
    return stated


def _source(bundle: Bundle, *, calibrated: bool, progress: Progress) -> _Source:
    path = bundle.file(bundle.manifest.graphs["model"].file)
    model = load_graph(path)
    layers = find_layers(model)
    if not layers:
        raise StageError(f"{bundle.path} has no product with constant weights to quantize")
    moments = _moments(bundle, model, layers, progress) if calibrated else {}
    return _Source(bundle, path, model, layers, moments)


def _moments(
    bundle: Bundle, model: onnx.ModelProto, layers: Sequence[Layer], progress: Progress
) -> dict[str, Moments]:
    """Return what flows into layers on text that the model writes itself, and on sentences."""
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    sizes = {layer.value: shapes[layer.weight][1 if layer.rows else 0] for layer in layers}
    found: dict[str, Moments] = {}
    windows = [*write_text(bundle, progress=progress), *calibration_windows(bundle)]
    for part in observe_moments(bundle, sizes, windows, progress):
        found |= part
    return found


def _write(
    source: _Source, draft: Draft, planned: Sequence[Plan], keep: Collection[str]
) -> Manifest:
    """Write every graph that is planned; what they have in common is stored once."""
    copy_text(draft, source.bundle)
    known: Known = {}
    graphs: dict[str, GraphSpec] = {}
    for plan in planned:
        file = f"onnx/{plan.role}.onnx"
        recipe = _recipe(source, plan, keep)
        path = draft.file(file)
        graphs[plan.role] = write_decoder(source.path, path, file, recipe, known=known)
    bits = min(plan.body.bits for plan in planned)
    manifest = replace(
        source.bundle.manifest, graphs=graphs, precision=PRECISIONS[bits], files=None
    )
    return finish(draft, manifest)


def _recipe(source: _Source, plan: Plan, keep: Collection[str]) -> Recipe:
    held = forms(source.model, plan, keep)
    if not plan.smoothed or not source.moments:
        return Recipe(held, source.moments)
    factors, scales = Factors(), {}
    for value, fold in find_folds(source.model, source.layers).items():
        readers = [layer for layer in source.layers if layer.value == value]
        if all(layer.name in held and not held[layer.name].block_size for layer in readers):
            matrix = np.concatenate([source.matrix(layer) for layer in readers], axis=1)
            seen = source.moments[value]
            if fold.vectors:  # a norm's rows are all of one length: they can share a scale
                chosen = balanced_factors(seen.peak, seen.importance, matrix)
                scales[value] = float((seen.peak / chosen).max()) / EIGHT_BITS
            else:
                chosen = channel_factors(seen.peak, [matrix])
            factors.add(value, fold, readers, chosen)
    return Recipe(held, source.moments, factors, scales)
