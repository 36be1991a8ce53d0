"""A decoder's bundle → one of integers: by blocks, by rows, or a graph of each."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from lmonnx.bundle.bundle import Bundle
from lmonnx.bundle.draft import Draft, draft_at
from lmonnx.bundle.manifest import GraphSpec, Manifest
from lmonnx.compiler.quantize.choice import Choice
from lmonnx.compiler.quantize.decoder_graph import Shared, write_decoder
from lmonnx.compiler.quantize.graph_source import GraphSource, recipe_of, value_sizes
from lmonnx.compiler.quantize.layers import Layer, find_layers, load_direct
from lmonnx.compiler.quantize.moments import Moments, observe_moments
from lmonnx.compiler.quantize.own_text import write_text
from lmonnx.compiler.quantize.recipes import PRECISIONS, Plan, plans
from lmonnx.compiler.quantize.text_gate import calibration_windows, open_text_gate
from lmonnx.compiler.stage import copy_text, finish, make_step
from lmonnx.errors import StageError
from lmonnx.progress import Progress

Ids = NDArray[np.int64]


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
    planned = plans(
        choice.method,
        choice.bits,
        choice.block_size,
        choice.head_bits,
        int8_prompts=choice.int8_prompts,
    )
    calibrated = choice.calibrate and any(plan.is_calibrated for plan in planned)
    started = time.perf_counter()
    source = _source(bundle, calibrated=calibrated, progress=progress)
    seconds = {"calibration": time.perf_counter() - started}
    with draft_at(target, source=bundle.path, force=force) as draft:
        started = time.perf_counter()
        manifest = _write(bundle, source, draft, planned, keep, progress)
        seconds["rounding"] = time.perf_counter() - started
        started = time.perf_counter()
        metrics = gate.measure(Bundle.open(draft.path, verify=False), progress)
        seconds["gate"] = time.perf_counter() - started
        metrics |= {
            "layers": len(source.layers),
            "widened": [],
            "seconds": {name: round(spent, 1) for name, spent in seconds.items()},
        }
        step = make_step("quantize", choice.options | {"keep": sorted(keep)}, metrics=metrics)
        finish(draft, manifest.with_step(step))
    return Bundle.open(target, verify=False)


def _source(bundle: Bundle, *, calibrated: bool, progress: Progress) -> GraphSource:
    path = bundle.file(bundle.manifest.graphs["model"].file)
    model = load_direct(path)
    layers = find_layers(model)
    if not layers:
        raise StageError(f"{bundle.path} has no product with constant weights to quantize")
    moments = _moments(bundle, model, layers, progress) if calibrated else {}
    return GraphSource(path, model, layers, moments)


def _moments(
    bundle: Bundle, model: onnx.ModelProto, layers: Sequence[Layer], progress: Progress
) -> dict[str, Moments]:
    """Return what flows into layers on text that the model writes itself, and on sentences."""
    sizes = value_sizes(model, layers)
    found: dict[str, Moments] = {}
    windows = [*write_text(bundle, progress=progress), *calibration_windows(bundle)]
    for part in observe_moments(bundle, sizes, windows, progress):
        found |= part
    return found


def _write(
    bundle: Bundle,
    source: GraphSource,
    draft: Draft,
    planned: Sequence[Plan],
    keep: Collection[str],
    progress: Progress,
) -> Manifest:
    """Write every graph that is planned; what they have in common is stored once."""
    copy_text(draft, bundle)
    shared = Shared()
    graphs: dict[str, GraphSpec] = {}
    for plan in planned:
        file = f"onnx/{plan.role}.onnx"
        recipe = recipe_of(source, plan, keep)
        path = draft.file(file)
        graphs[plan.role] = write_decoder(
            source.path, path, file, recipe, shared=shared, progress=progress
        )
    bits = min(plan.body.bits for plan in planned)
    manifest = bundle.manifest.replace_graphs(graphs, precision=PRECISIONS[bits])
    return finish(draft, manifest)
