"""Checkpoint → first bundle: engine → graph → text → head → manifest, then parity."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from pathlib import Path

from lmonnx.bundle.bundle import Bundle
from lmonnx.bundle.draft import Draft, draft_at
from lmonnx.bundle.manifest import GraphSpec, Manifest, Precision, Source, Task
from lmonnx.compiler.checkpoint import Checkpoint
from lmonnx.compiler.export import adopt, traced
from lmonnx.compiler.export.heads import detect_task, read_head
from lmonnx.compiler.export.native.build import build_graph, max_positions, native_family
from lmonnx.compiler.export.text import export_text
from lmonnx.compiler.stage import MODEL_FILE, finish, make_step
from lmonnx.errors import StageError, UnsupportedError


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
    force: bool = False,
) -> Bundle:
    """Write a checkpoint as a bundle of float32 graphs that plain onnxruntime runs.

    Args:
        checkpoint: What to export.
        target: The bundle's folder.
        task: A task of the manifest; None is told from config.json.
        engine: What makes the graph.
        variant: For adopt: the suffix of the ONNX file, such as "int8".
        force: Replace a bundle that is there.

    Raises:
        UnsupportedError: No engine here makes this architecture's graph for the task.
        StageError: The checkpoint is damaged or the target cannot be written.
    """
    chosen = _choose(checkpoint, engine)
    kind = detect_task(checkpoint, task)
    with draft_at(target, force=force) as draft:
        manifest = _BUILDERS[chosen](checkpoint, kind, draft, variant)
        options = {"engine": chosen.value, "task": kind.value}
        step = make_step("export", {**options, **({"variant": variant} if variant else {})})
        finish(draft, manifest.with_step(step))
    return Bundle.open(target, verify=False)


def _choose(checkpoint: Checkpoint, engine: Engine) -> Engine:
    if engine is not Engine.AUTO:
        return engine
    if adopt.find_graphs(checkpoint) and not _has_weights(checkpoint):
        return Engine.ADOPT
    try:
        native_family(checkpoint, detect_task(checkpoint, None))
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
    return _manifest(checkpoint, task, draft, graph, max_positions(checkpoint, family))


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
    logits = graph.outputs[0].shape[-1]
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
