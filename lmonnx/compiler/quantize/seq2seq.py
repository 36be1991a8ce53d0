"""An encoder-decoder's bundle → one of integers: both graphs, one table where they share one."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lmonnx.bundle.bundle import Bundle
from lmonnx.bundle.draft import Draft, draft_at
from lmonnx.bundle.manifest import Manifest
from lmonnx.compiler.quantize.choice import Choice
from lmonnx.compiler.quantize.decoder_graph import Shared, write_decoder
from lmonnx.compiler.quantize.graph_source import GraphSource, recipe_of, value_sizes
from lmonnx.compiler.quantize.layers import find_layers, is_lookup, load_direct
from lmonnx.compiler.quantize.moments import Feed, Moments, observe_feeds
from lmonnx.compiler.quantize.own_text import draw
from lmonnx.compiler.quantize.pair_gate import open_pair_gate
from lmonnx.compiler.quantize.pair_recipes import pair_plans
from lmonnx.compiler.quantize.pairs import Pair, PairModel
from lmonnx.compiler.quantize.recipes import PRECISIONS, Plan
from lmonnx.compiler.quantize.sources import calibration_sources
from lmonnx.compiler.stage import SEQ2SEQ_FILES, copy_text, finish, make_step
from lmonnx.errors import StageError
from lmonnx.measure.references import Rewriting
from lmonnx.progress import Progress

_SOURCES = 128  # sentences, and as many rows of random tokens
_MORE = 8  # tokens that a written target may have beyond twice its source's


@dataclass(frozen=True, slots=True)
class _Request:
    """What is to be made of a bundle, and what was seen in its graphs."""

    bundle: Bundle
    sources: Mapping[str, GraphSource]
    plans: Sequence[Plan]
    keep: Collection[str]


def quantize_seq2seq(
    bundle: Bundle,
    target: Path,
    choice: Choice,
    *,
    text: str | None,
    examples: Sequence[Rewriting] | None,
    keep: Collection[str],
    force: bool,
    progress: Progress,
) -> Bundle:
    """Write an encoder-decoder of integers that still finds the input's answers likely.

    Args:
        bundle: A float32 encoder-decoder.
        target: The new bundle's folder.
        choice: How.
        text: The gate's sources, one a line; the shipped sentences without one.
        examples: Sources and right answers: the drop is then that of the task's figure.
        keep: Names of layers that stay in float32.
        force: Replace a bundle that is there.
        progress: Told how far calibration, rounding and gate are.

    Raises:
        GateError: The drop is larger than `choice.limit`; nothing is written.
        StageError: There is nothing to quantize.
    """
    seconds: dict[str, float] = {}
    with _timed(seconds, "answers"):
        gate = open_pair_gate(bundle, choice.limit, text=text, examples=examples, progress=progress)
    with _timed(seconds, "calibration"):
        sources = _observed(bundle, calibrated=choice.calibrate, progress=progress)
    request = _Request(bundle, sources, pair_plans(choice, sources["decoder"]), keep)
    with draft_at(target, source=bundle.path, force=force) as draft:
        with _timed(seconds, "rounding"):
            manifest = _write(request, draft, progress)
        with _timed(seconds, "gate"):
            metrics = gate.measure(Bundle.open(draft.path, verify=False), progress)
        metrics |= {
            "layers": sum(len(source.layers) for source in sources.values()),
            "widened": [],
            "seconds": seconds,
        }
        step = make_step("quantize", choice.options | {"keep": sorted(keep)}, metrics=metrics)
        finish(draft, manifest.with_step(step))
    return Bundle.open(target, verify=False)


@contextmanager
def _timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    seconds[name] = round(time.perf_counter() - started, 1)


def _observed(bundle: Bundle, *, calibrated: bool, progress: Progress) -> dict[str, GraphSource]:
    """Return both graphs with what flows into their layers on pairs that the model writes."""
    feeds = _feeds(bundle, progress) if calibrated else {}
    found = {}
    for role in SEQ2SEQ_FILES:
        path = bundle.file(bundle.manifest.graphs[role].file)
        model = load_direct(path)
        layers = find_layers(model)
        if not layers:
            raise StageError(f"the {role} of {bundle.path} has no product to quantize")
        moments: dict[str, Moments] = {}
        if calibrated:
            sizes = value_sizes(model, layers)
            for part in observe_feeds(path, sizes, feeds[role], progress):
                moments |= part
        found[role] = GraphSource(path, model, layers, moments)
    return found


def _feeds(bundle: Bundle, progress: Progress) -> dict[str, list[Feed]]:
    model, random = PairModel(bundle), np.random.default_rng(0)

    def drawn(logits: NDArray[np.float32]) -> NDArray[np.int64]:
        return draw(logits, random)

    sources = calibration_sources(bundle, _SOURCES, _known_words(bundle))
    pairs: list[Pair] = model.write(sources, drawn, more=_MORE, progress=progress)
    return {
        "encoder": [partial(model.encoder_inputs, pair) for pair in pairs],
        "decoder": [partial(model.decoder_inputs, pair) for pair in pairs],
    }


def _known_words(bundle: Bundle) -> int:
    """Return how many ids the encoder looks up; the decoder may know others."""
    graph = load_direct(bundle.file(bundle.manifest.graphs["encoder"].file)).graph
    tables = {node.input[0] for node in graph.node if is_lookup(node)}
    return min(int(t.dims[0]) for t in graph.initializer if t.name in tables)


def _write(request: _Request, draft: Draft, progress: Progress) -> Manifest:
    """Write both graphs; what they have in common is stored once."""
    copy_text(draft, request.bundle)
    shared = Shared()
    graphs: dict[str, Any] = {}
    for plan in request.plans:
        file, source = SEQ2SEQ_FILES[plan.role], request.sources[plan.role]
        recipe = recipe_of(source, plan, request.keep)
        graphs[plan.role] = write_decoder(
            source.path, draft.file(file), file, recipe, shared=shared, progress=progress
        )
    bits = min(plan.body.bits for plan in request.plans)
    manifest = request.bundle.manifest
    return finish(draft, manifest.replace_graphs(graphs, precision=PRECISIONS[bits]))
