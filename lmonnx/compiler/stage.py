"""What every stage does at its end: state versions, write the model card, seal the draft."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from lmonnx.bundle.bundle import Bundle
from lmonnx.bundle.draft import Draft
from lmonnx.bundle.manifest import MANIFEST, Manifest, Parity, Step
from lmonnx.compiler.card import model_card

MODEL_FILE = "onnx/model.onnx"
SEQ2SEQ_FILES = {"encoder": "onnx/encoder_model.onnx", "decoder": "onnx/decoder_model.onnx"}
CARD = "README.md"
_PACKAGES = ("lmonnx", "numpy", "onnx", "onnxruntime", "tokenizers")


def make_step(
    stage: str,
    options: Mapping[str, Any],
    *,
    packages: Iterable[str] = (),
    parity: tuple[Parity, ...] = (),
    metrics: Mapping[str, Any] | None = None,
) -> Step:
    """Return a step with the versions of everything that had a hand in it."""
    versions = {}
    for package in (*_PACKAGES, *packages):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return Step(stage, dict(options), versions, parity, metrics)


def finish(draft: Draft, manifest: Manifest) -> Manifest:
    """Write the model card and seal the draft; nothing may be written after it."""
    draft.file(CARD).write_text(model_card(manifest), encoding="utf-8")
    return draft.seal(manifest)


def copy_text(draft: Draft, bundle: Bundle) -> None:
    """Take over every file of a bundle but its graphs, its card and its manifest."""
    graphs = {graph.file for graph in bundle.manifest.graphs.values()}
    kept = (
        name
        for name in bundle.manifest.files or {}
        if name not in {CARD, MANIFEST} and not any(name.startswith(graph) for graph in graphs)
    )
    draft.copy(bundle, kept)
