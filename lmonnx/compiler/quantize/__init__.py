"""Bundle → bundle of integers, accepted only when the gate measured that it answers as well."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from lmonnx.bundle.bundle import Bundle
from lmonnx.bundle.draft import Draft, draft_at
from lmonnx.bundle.manifest import Manifest, Precision
from lmonnx.compiler.quantize.calibration import Calibration, observe
from lmonnx.compiler.quantize.choice import Asked
from lmonnx.compiler.quantize.decoder import quantize_decoder
from lmonnx.compiler.quantize.dynamic import Granularity, write_int8
from lmonnx.compiler.quantize.gate import Drop, Gate, open_gate
from lmonnx.compiler.quantize.layers import Layer, find_layers, load_direct
from lmonnx.compiler.quantize.recipes import HEAD_BITS, Method
from lmonnx.compiler.quantize.sensitivity import rank_layers
from lmonnx.compiler.quantize.seq2seq import quantize_seq2seq
from lmonnx.compiler.stage import MODEL_FILE, copy_text, finish, make_step
from lmonnx.errors import GateError, InputError, StageError
from lmonnx.measure.sentences import fit, parity_sentences
from lmonnx.progress import Progress, silent
from lmonnx.runtime.pipelines import PIPELINES
from lmonnx.runtime.pipelines.base import Pipeline
from lmonnx.runtime.tokenizer import Text

__all__ = ["Granularity", "Method", "quantize"]

_MAX_DROP = 0.01
_UNASKED = 4  # at most a quarter of the layers is widened unasked


@dataclass(frozen=True, slots=True)
class _Plan:
    """What to make of a bundle: the layers to quantize, and what flows into them on plain text."""

    bundle: Bundle
    granularity: Granularity
    layers: tuple[str, ...]
    calibration: Calibration

    @property
    def quota(self) -> int:
        return len(self.layers) // _UNASKED


def quantize(
    bundle: Bundle,
    target: Path,
    *,
    method: str | None = None,
    granularity: str = Granularity.ROW,
    bits: int | None = None,
    block_size: int | None = None,
    head_bits: int = HEAD_BITS,
    calibrate: bool = True,
    int8_prompts: bool = True,
    examples: Sequence[Any] | None = None,
    text: str | None = None,
    max_drop: float | None = None,
    keep: Collection[str] = (),
    force: bool = False,
    progress: Progress = silent,
) -> Bundle:
    """Write a bundle of integers whose measured drop is at most `max_drop`.

    Over the limit, or where a token classifier finds other entities, the layers of an encoder that
    cost most are widened to float32, worst first, up to a quarter of all. The step in the manifest
    holds the drop, its interval, and what was widened.

    Args:
        bundle: A float32 bundle, optimized or not.
        target: The new bundle's folder.
        method: "dynamic" has activations scaled as they come, the default but for decoders; of
            these there are "weight-only", the default, and "both"; of encoder-decoders the former.
        granularity: What shares an activation scale; of decoders always a row.
        bits: Of weight-only weights, 4 or 8; None is 4. Given without a method they ask for
            "weight-only" of an encoder-decoder.
        block_size: How many of those share a scale at most: 32, 64 or 128; fewer where that leaves
            a remainder. None is 32, with which an answer does not depend on its company.
        head_bits: Of a weight-only head and the table that it may be, 4 or 8.
        calibrate: Let a decoder write some text, and round so that on this and on the other half
            of the sentences its outputs stay; without it weights are rounded to the nearest, in a
            tenth of the time.
        int8_prompts: Add to a decoder's calibrated weights of 4 bits a graph that reads prompts two
            to three times as fast, with int8 products of these weights, which `load` makes.
        examples: Labelled data for the gate, as `measure.accuracy.read_data` gives it; without it
            500 shipped sentences serve.
        text: The gate's text for a decoder, or an encoder-decoder's sources, one a line; half of
            the shipped sentences without it.
        max_drop: Of accuracy, F1 or correlation, in [-1, 1]; below 0 it asks for a gain. None is
            0.01. Of a decoder how much perplexity may rise, as a share; None depends on the method.
        keep: Patterns of layer names that stay in float32, such as "layer.11." or "*output*".
        force: Replace a bundle that is there.
        progress: Told how far the gate is.

    Raises:
        GateError: The drop stays over the limit; nothing is written.
        StageError: There is nothing to quantize.
        InputError: An option is wrong.
    """
    if max_drop is not None and not -1 <= max_drop <= 1:
        raise InputError(f"max_drop is {max_drop}, must be between -1 and 1")
    _check_precision(bundle)
    generation = bundle.manifest.generation
    if generation is not None:
        asked = Asked(
            method,
            bits,
            block_size,
            head_bits,
            max_drop,
            calibrate=calibrate,
            int8_prompts=int8_prompts,
        )
        how: dict[str, Any] = {
            "text": text,
            "keep": _kept(bundle, keep),
            "force": force,
            "progress": progress,
        }
        if generation.seq2seq is None:
            return quantize_decoder(bundle, target, asked.of_decoder(), **how)
        choice = asked.of_pair(labelled=examples is not None)
        return quantize_seq2seq(bundle, target, choice, examples=examples, **how)
    chosen = Method(method or Method.DYNAMIC)
    if chosen is not Method.DYNAMIC:
        raise InputError(f"{chosen} is for decoders; {bundle.path} is quantized by dynamic")
    plan = _plan(bundle, Granularity(granularity), keep, progress)
    limit = _MAX_DROP if max_drop is None else max_drop
    return _quantize_encoder(plan, target, examples, limit, keep, force=force, progress=progress)


def _quantize_encoder(
    plan: _Plan,
    target: Path,
    examples: Sequence[Any] | None,
    max_drop: float,
    keep: Collection[str],
    *,
    force: bool,
    progress: Progress,
) -> Bundle:
    bundle = plan.bundle
    gate = open_gate(_load(bundle), examples, progress)
    options = {
        "method": Method.DYNAMIC.value,
        "granularity": plan.granularity.value,
        "max_drop": max_drop,
        "keep": sorted(keep),
    }
    with draft_at(target, source=bundle.path, force=force) as draft:
        widened, drop, manifest = _accepted(plan, draft, gate, max_drop, progress)
        metrics = {**drop.as_metrics(), "layers": len(plan.layers), "widened": widened}
        if drop.interval[1] - drop.interval[0] > 2 * max_drop:
            metrics["warning"] = "the interval is wider than the limit; give more labelled text"
        finish(draft, manifest.with_step(make_step("quantize", options, metrics=metrics)))
    return Bundle.open(target, verify=False)


def _load(bundle: Bundle) -> Pipeline[Any]:
    return PIPELINES[bundle.manifest.task](bundle)


def _probes(bundle: Bundle) -> list[Text]:
    return fit(parity_sentences(), bundle.manifest)


def _check_precision(bundle: Bundle) -> None:
    if bundle.manifest.precision is not Precision.FLOAT32:
        raise StageError(
            f"{bundle.path} is {bundle.manifest.precision} already; give a float32 one"
        )


def _found(bundle: Bundle) -> tuple[Layer, ...]:
    graphs = bundle.manifest.graphs.values()
    found = [layer for g in graphs for layer in find_layers(load_direct(bundle.file(g.file)))]
    if not found:
        raise StageError(f"{bundle.path} has no product with constant weights to quantize")
    return tuple(found)


def _kept(bundle: Bundle, keep: Collection[str]) -> set[str]:
    """Return the names of the layers that some patterns match."""
    names = [layer.name for layer in _found(bundle)]
    return {name for pattern in keep for name in _matches(pattern, names)}


def _plan(
    bundle: Bundle, granularity: Granularity, keep: Collection[str], progress: Progress
) -> _Plan:
    found, kept = _found(bundle), _kept(bundle, keep)
    layers = tuple(layer.name for layer in found if layer.name not in kept)
    values = {layer.value for layer in found if layer.name in layers}
    seen = observe(bundle, values, _probes(bundle), progress=progress)
    return _Plan(bundle, granularity, layers, seen)


def _matches(pattern: str, names: Sequence[str]) -> list[str]:
    if not pattern.strip():
        raise InputError(f"--keep is empty; give a part of a layer's name, such as {names[0]}")
    found = [name for name in names if fnmatchcase(name, f"*{pattern.strip('*')}*")]
    if not found:
        raise InputError(f"no layer matches --keep {pattern}; the first is {names[0]}")
    return found


def _accepted(
    plan: _Plan, draft: Draft, gate: Gate, max_drop: float, progress: Progress
) -> tuple[list[str], Drop, Manifest]:
    """Return the first form that passes: what was widened, what it loses, its manifest.

    One whose entities are not yet alike passes too where widening a quarter does no better.
    """
    copy_text(draft, plan.bundle)
    passed: tuple[list[str], Drop] | None = None
    for widened in _forms(plan, progress):
        manifest = _write(plan, draft, widened)
        drop = gate.measure(_load(Bundle.open(draft.path, verify=False)), progress)
        if drop.value <= max_drop:
            passed = widened, drop
            if drop.is_alike:
                break
    if passed is not None:
        if passed[0] != widened:
            manifest = _write(plan, draft, passed[0])
        return *passed, manifest
    raise GateError(
        f"{drop.measured} drops by {drop.value:.4f} "
        f"(95%: {drop.interval[0]:.4f} to {drop.interval[1]:.4f}) on {drop.texts} texts with "
        f"{plan.quota} of {len(plan.layers)} layers in float32, more than --max-drop {max_drop}; "
        "nothing was written. Allow more, keep more layers with --keep, or check the data"
    )


def _forms(plan: _Plan, progress: Progress) -> Iterator[list[str]]:
    """Yield what to widen: nothing, then the worst layer, the two worst, four, … a quarter."""
    yield []
    if not plan.quota:
        return
    ranked = rank_layers(
        plan.bundle,
        plan.layers,
        _probes(plan.bundle),
        granularity=plan.granularity,
        calibration=plan.calibration,
        progress=progress,
    )
    count = 1
    while count < plan.quota:
        yield ranked[:count]
        count *= 2
    yield ranked[: plan.quota]


def _write(plan: _Plan, draft: Draft, widened: Sequence[str]) -> Manifest:
    graph = plan.bundle.manifest.graphs["model"]
    spec = write_int8(
        plan.bundle.file(graph.file),
        draft.file(MODEL_FILE),
        MODEL_FILE,
        granularity=plan.granularity,
        layers=[name for name in plan.layers if name not in widened],
        optimized=graph.optimized,
        calibration=plan.calibration,
    )
    return finish(draft, plan.bundle.manifest.replace_graph(spec, precision=Precision.INT8))
