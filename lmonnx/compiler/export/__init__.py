"""Checkpoint → first bundle: engine → graph → text → head → manifest, then parity."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from lmonnx.bundle.bundle import Bundle
from lmonnx.bundle.draft import Draft, draft_at
from lmonnx.bundle.manifest import (
    Generation,
    GraphSpec,
    Head,
    Manifest,
    Parity,
    Precision,
    Side,
    Source,
    Task,
)
from lmonnx.bundle.settings import warning_of
from lmonnx.compiler.checkpoint import Checkpoint
from lmonnx.compiler.export import adopt, adopt_decoder, adopt_pair, traced
from lmonnx.compiler.export.embedding import export_embedding
from lmonnx.compiler.export.generation import export_generation
from lmonnx.compiler.export.heads import check_logits, detect_task, read_head, reads_typed_pairs
from lmonnx.compiler.export.native.build import build_graph, max_positions, native_family
from lmonnx.compiler.export.native.decoders import DECODERS
from lmonnx.compiler.export.native.decoders.build import (
    build_decoder,
    build_states,
    cache_spec,
    read_decoder,
)
from lmonnx.compiler.export.native_offer import native_offered
from lmonnx.compiler.export.seq2seq import export_seq2seq, seq2seq_generation
from lmonnx.compiler.export.text import export_text
from lmonnx.compiler.reference import is_installed
from lmonnx.compiler.stage import MODEL_FILE, finish, make_step
from lmonnx.compiler.verify import verify_against
from lmonnx.errors import StageError, UnsupportedError
from lmonnx.measure.parity import require_parity
from lmonnx.progress import Progress, silent

# What encoder-decoders are for; each of them may be asked for each.
_SEQ2SEQ = frozenset({Task.TRANSLATION, Task.SUMMARIZATION, Task.TEXT_TO_TEXT})


class Engine(StrEnum):
    """What makes the graph."""

    AUTO = "auto"  # native where it can, adopt where there is only ONNX, else optimum
    NATIVE = "native"
    OPTIMUM = "optimum"
    ADOPT = "adopt"


def export(
    checkpoint: Checkpoint,
    target: Path,
    *,
    task: str | None = None,
    engine: Engine = Engine.AUTO,
    variant: str | None = None,
    pooling: str | None = None,
    verify: bool = True,
    force: bool = False,
    progress: Progress = silent,
) -> Bundle:
    """Write a checkpoint as a bundle of float32 graphs that plain onnxruntime runs.

    Args:
        checkpoint: What to export.
        target: The bundle's folder.
        task: A task of the manifest; None is told from config.json.
        engine: What makes the graph.
        variant: For adopt: the suffix of the ONNX file, such as "int8".
        pooling: For feature-extraction: another pooling than the checkpoint states.
        verify: Compare with transformers' answers, where it is installed.
        force: Replace a bundle that is there.
        progress: Told how far it is.

    Raises:
        UnsupportedError: No engine here makes this architecture's graph for the task.
        StageError: The checkpoint is damaged or the target cannot be written.
        ParityError: The bundle answers differently; nothing is written.
    """
    kind = detect_task(checkpoint, task)
    head = read_head(checkpoint, kind)
    if pooling is not None and kind is not Task.FEATURE_EXTRACTION:
        raise UnsupportedError(f"pooling is for {Task.FEATURE_EXTRACTION}, not for {kind}")
    with draft_at(target, source=checkpoint.origin, force=force) as draft:
        progress("graph", 0, 1)
        built = _BUILDERS[engine](checkpoint, kind, draft, variant)
        manifest = _manifest(checkpoint, kind, head, draft, built)
        if kind is Task.FEATURE_EXTRACTION:
            embedding = export_embedding(checkpoint, draft, built.graphs["model"], pooling=pooling)
            manifest = replace(manifest, embedding=embedding)
        progress("graph", 1, 1)
        finish(draft, manifest)
        made = Bundle.open(draft.path, verify=False)
        # A folder of ONNX alone has nothing to compare with.
        comparable = built.engine is not Engine.ADOPT or _has_weights(checkpoint)
        compared = verify and comparable and is_installed()
        parity = (_parity(made, checkpoint, progress),) if compared else ()
        options = {"engine": built.engine.value, "task": kind.value}
        given = {"variant": variant, "pooling": pooling}
        options |= {name: value for name, value in given.items() if value}
        metrics = {"warning": told} if (told := warning_of(built.generation)) else None
        packages = ("transformers", "torch")
        step = make_step("export", options, packages=packages, parity=parity, metrics=metrics)
        finish(draft, manifest.with_step(step))
    return Bundle.open(target, verify=False)


def _parity(made: Bundle, checkpoint: Checkpoint, progress: Progress) -> Parity:
    parity = verify_against(made, checkpoint, progress=progress)
    require_parity(parity, made.manifest.precision)
    return parity


@dataclass(frozen=True, slots=True)
class _Built:
    """Graphs in the draft by role: by what they were made, and how many tokens they take.

    `padding_side` is set where the graphs allow no other than that.
    """

    engine: Engine
    graphs: Mapping[str, GraphSpec]
    positions: int
    precision: Precision = Precision.FLOAT32
    padding_side: Side | None = None
    generation: Generation | None = None


def _auto(checkpoint: Checkpoint, task: Task, draft: Draft, variant: str | None) -> _Built:
    finder = adopt_pair if task in _SEQ2SEQ else adopt
    finder = adopt_decoder if task is Task.TEXT_GENERATION else finder
    if finder.find_graphs(checkpoint) and not _has_weights(checkpoint):
        return _adopt(checkpoint, task, draft, variant)
    try:
        return _native(checkpoint, task, draft, variant)
    except UnsupportedError:
        if variant or checkpoint.gguf or not traced.is_installed():
            raise
    return _optimum(checkpoint, task, draft, variant)


def _has_weights(checkpoint: Checkpoint) -> bool:
    try:
        return bool(checkpoint.weights().names())
    except StageError:
        return False


def _native(checkpoint: Checkpoint, task: Task, draft: Draft, variant: str | None) -> _Built:
    _refuse_variant(variant)
    if task is Task.TEXT_GENERATION:
        return _decoder(checkpoint, draft)
    if task in _SEQ2SEQ:
        return _seq2seq(checkpoint, draft)
    if task is Task.FEATURE_EXTRACTION and checkpoint.architecture in DECODERS:
        return _states(checkpoint, draft)
    family = native_family(checkpoint, task)
    head = read_head(checkpoint, task)
    draft.file(MODEL_FILE)
    classes = len(head.labels) if head else 0
    graph = build_graph(checkpoint, task, classes, draft.path, MODEL_FILE)
    positions = max_positions(checkpoint, family)
    # These families count positions from the first token, and most heads read it: padding before
    # it moves both.
    return _Built(Engine.NATIVE, _alone(graph), positions, padding_side=Side.RIGHT)


def _decoder(checkpoint: Checkpoint, draft: Draft) -> _Built:
    decoder = read_decoder(checkpoint)
    draft.file(MODEL_FILE)
    graph = build_decoder(checkpoint, decoder, draft.path, MODEL_FILE)
    generation = export_generation(
        checkpoint,
        draft,
        context=decoder.context,
        vocabulary=decoder.vocabulary,
        cache=cache_spec(decoder),
    )
    return _Built(
        Engine.NATIVE,
        _alone(graph),
        decoder.context,
        padding_side=Side.RIGHT,
        generation=generation,
    )


def _seq2seq(checkpoint: Checkpoint, draft: Draft) -> _Built:
    graphs, positions, generation = export_seq2seq(checkpoint, draft)
    return _Built(Engine.NATIVE, graphs, positions, padding_side=Side.RIGHT, generation=generation)


def _alone(graph: GraphSpec) -> dict[str, GraphSpec]:
    return {"model": graph}


def _states(checkpoint: Checkpoint, draft: Draft) -> _Built:
    decoder = read_decoder(checkpoint)
    draft.file(MODEL_FILE)
    graph = build_states(checkpoint, decoder, draft.path, MODEL_FILE)
    return _Built(Engine.NATIVE, _alone(graph), decoder.context, padding_side=Side.RIGHT)


def _adopt(checkpoint: Checkpoint, task: Task, draft: Draft, variant: str | None) -> _Built:
    if task in _SEQ2SEQ:
        return _adopted_pair(Engine.ADOPT, checkpoint, checkpoint, draft, variant)
    if task is Task.TEXT_GENERATION:
        return _adopted(Engine.ADOPT, checkpoint, checkpoint, draft, variant)
    graph, precision = adopt.adopt_graph(checkpoint, task, draft, variant)
    return _Built(Engine.ADOPT, _alone(graph), adopt.max_positions(checkpoint), precision)


def _optimum(checkpoint: Checkpoint, task: Task, draft: Draft, variant: str | None) -> _Built:
    _refuse_variant(variant)
    with traced.traced_folder(checkpoint, task) as folder:
        if task in _SEQ2SEQ:
            return _adopted_pair(Engine.OPTIMUM, folder, checkpoint, draft, None)
        if task is Task.TEXT_GENERATION:
            return _adopted(Engine.OPTIMUM, folder, checkpoint, draft, None)
        graph, _ = adopt.adopt_graph(folder, task, draft, None)
    return _Built(Engine.OPTIMUM, _alone(graph), adopt.max_positions(checkpoint))


def _adopted(
    engine: Engine, folder: Checkpoint, checkpoint: Checkpoint, draft: Draft, variant: str | None
) -> _Built:
    """Build a decoder from the ONNX graph of a folder, which may not be the checkpoint's own."""
    with native_offered(checkpoint):
        made = adopt_decoder.adopt_graph(folder, draft, variant)
    generation = export_generation(
        checkpoint, draft, context=made.context, vocabulary=made.vocabulary, cache=made.cache
    )
    return _Built(engine, _alone(made.graph), made.context, made.precision, Side.RIGHT, generation)


def _adopted_pair(
    engine: Engine, folder: Checkpoint, checkpoint: Checkpoint, draft: Draft, variant: str | None
) -> _Built:
    """Build an encoder-decoder from the ONNX graphs of a folder, as `_adopted` does a decoder."""
    with native_offered(checkpoint):
        made = adopt_pair.adopt_pair(folder, draft, variant)
    generation = seq2seq_generation(
        checkpoint, context=made.context, vocabulary=made.vocabulary, cache=made.cache
    )
    return _Built(engine, made.graphs, made.positions, made.precision, Side.RIGHT, generation)


def _refuse_variant(variant: str | None) -> None:
    if variant:
        raise UnsupportedError("--variant names an ONNX file to adopt; pass --engine adopt")


_BUILDERS: Mapping[Engine, Callable[[Checkpoint, Task, Draft, str | None], _Built]] = {
    Engine.AUTO: _auto,
    Engine.NATIVE: _native,
    Engine.ADOPT: _adopt,
    Engine.OPTIMUM: _optimum,
}


def _manifest(
    checkpoint: Checkpoint, task: Task, head: Head | None, draft: Draft, built: _Built
) -> Manifest:
    if head is not None:
        check_logits(built.graphs["model"], len(head.labels))
    text = export_text(
        checkpoint,
        draft,
        positions=built.positions,
        spare_tokens=built.generation is not None,
        typed_pairs=reads_typed_pairs(task, built.graphs),
    )
    if built.padding_side is not None:
        text = replace(text, source=replace(text.source, padding_side=built.padding_side))
    if built.generation is not None and built.generation.seq2seq is None:
        # The tokenizer's own limit is a habit of training; the cache has room for the context.
        text = replace(text, max_length=built.generation.context)
    return Manifest(
        task=task,
        precision=built.precision,
        source=Source(
            checkpoint.repo, checkpoint.revision, checkpoint.architecture, checkpoint.license
        ),
        graphs=built.graphs,
        text=text,
        head=head,
        generation=built.generation,
    )
