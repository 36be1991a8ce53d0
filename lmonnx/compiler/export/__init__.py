"""Checkpoint → first bundle: engine → graph → text → head → manifest, then parity."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from enum import StrEnum
from pathlib import Path

from lmonnx.bundle.bundle import Bundle
from lmonnx.bundle.draft import Draft, draft_at
from lmonnx.bundle.manifest import GraphSpec, Manifest, Parity, Precision, Side, Source, Task
from lmonnx.compiler.checkpoint import Checkpoint
from lmonnx.compiler.export import adopt, traced
from lmonnx.compiler.export.heads import detect_task, read_head
from lmonnx.compiler.export.native.build import build_graph, max_positions, native_family
from lmonnx.compiler.export.text import export_text
from lmonnx.compiler.reference import is_installed
from lmonnx.compiler.stage import MODEL_FILE, finish, make_step
from lmonnx.compiler.verify import verify_against
from lmonnx.errors import StageError, UnsupportedError
from lmonnx.measure.parity import require_parity
from lmonnx.progress import Progress, silent


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
        verify: Compare with transformers' answers, where it is installed.
        force: Replace a bundle that is there.
        progress: Told how far it is.

    Raises:
        UnsupportedError: No engine here makes this architecture's graph for the task.
        StageError: The checkpoint is damaged or the target cannot be written.
        ParityError: The bundle answers differently; nothing is written.
    """
    chosen = _choose(checkpoint, engine, task)
    kind = detect_task(checkpoint, task)
    with draft_at(target, force=force) as draft:
        progress("graph", 0, 1)
        manifest = _BUILDERS[chosen](checkpoint, kind, draft, variant)
        progress("graph", 1, 1)
        finish(draft, manifest)
        made = Bundle.open(draft.path, verify=False)
        parity = (_parity(made, checkpoint, progress),) if verify and is_installed() else ()
        options = {"engine": chosen.value, "task": kind.value}
        if variant:
            options["variant"] = variant
        step = make_step("export", options, packages=("transformers", "torch"), parity=parity)
        finish(draft, manifest.with_step(step))
    return Bundle.open(target, verify=False)


def _parity(made: Bundle, checkpoint: Checkpoint, progress: Progress) -> Parity:
    parity = verify_against(made, checkpoint, progress=progress)
    require_parity(parity, made.manifest.precision)
    return parity


def _choose(checkpoint: Checkpoint, engine: Engine, task: str | None) -> Engine:
    if engine is not Engine.AUTO:
        return engine
    if adopt.find_graphs(checkpoint) and not _has_weights(checkpoint):
        return Engine.ADOPT
    try:
        native_family(checkpoint, detect_task(checkpoint, task))
    except UnsupportedError:
        if traced.is_installed():
            return Engine.OPTIMUM
    return Engine.NATIVE


def _has_weights(checkpoint: Checkpoint) -> bool:
    try:
        return bool(checkpoint.weights().names())
    except StageError:
        return False


def _native(checkpoint: Checkpoint, task: Task, draft: Draft, variant: str | None) -> Manifest:
    if variant:
        raise UnsupportedError("--variant names an ONNX file to adopt; pass --engine adopt")
    family = native_family(checkpoint, task)
    head = read_head(checkpoint)
    draft.file(MODEL_FILE)
    graph = build_graph(checkpoint, task, len(head.labels), draft.path, MODEL_FILE)
    manifest = _manifest(checkpoint, task, draft, graph, max_positions(checkpoint, family))
    # These families read the first token and count positions from it: padding before it moves both.
    source = replace(manifest.text.source, padding_side=Side.RIGHT)
    return replace(manifest, text=replace(manifest.text, source=source))


def _adopt(checkpoint: Checkpoint, task: Task, draft: Draft, variant: str | None) -> Manifest:
    graph, precision = adopt.adopt_graph(checkpoint, draft, variant)
    positions = adopt.max_positions(checkpoint)
    return _manifest(checkpoint, task, draft, graph, positions, precision)


def _optimum(checkpoint: Checkpoint, task: Task, draft: Draft, variant: str | None) -> Manifest:
    if variant:
        raise UnsupportedError("--variant names an ONNX file to adopt; pass --engine adopt")
    with traced.traced_folder(checkpoint, task) as folder:
        graph, _ = adopt.adopt_graph(folder, draft, None)
    return _manifest(checkpoint, task, draft, graph, adopt.max_positions(checkpoint))


_BUILDERS: dict[Engine, Callable[[Checkpoint, Task, Draft, str | None], Manifest]] = {
    Engine.NATIVE: _native,
    Engine.ADOPT: _adopt,
    Engine.OPTIMUM: _optimum,
}


def _manifest(
    checkpoint: Checkpoint,
    task: Task,
    draft: Draft,
    graph: GraphSpec,
    positions: int,
    precision: Precision = Precision.FLOAT32,
) -> Manifest:
    head = read_head(checkpoint)
    shape = next(output.shape for output in graph.outputs if output.name == "logits")
    logits = shape[-1] if shape else 0
    if isinstance(logits, int) and logits != len(head.labels):
        raise StageError(f"the graph gives {logits} logits, config.json names {len(head.labels)}")
    return Manifest(
        task=task,
        precision=precision,
        source=Source(
            checkpoint.repo, checkpoint.revision, checkpoint.architecture, checkpoint.license
        ),
        graphs={"model": graph},
        text=export_text(checkpoint, draft, positions=positions),
        head=head,
    )
