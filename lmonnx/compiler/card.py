"""README.md of a bundle, made from its manifest: how it was made, parity, scores, licence."""

from __future__ import annotations

from collections.abc import Mapping

from lmonnx.bundle.manifest import Manifest, Step, Task
from lmonnx.measure.decisions import agreement_text

_CALLS: Mapping[Task, str] = {
    Task.TEXT_CLASSIFICATION: '"some text"',
    Task.TOKEN_CLASSIFICATION: '"some text", aggregation_strategy="simple"',
    Task.QUESTION_ANSWERING: 'question="What is it?", context="It is some text."',
    Task.FILL_MASK: 'f"some {model.mask_token}"',
    Task.ZERO_SHOT_CLASSIFICATION: '"some text", ["one label", "another"]',
    Task.FEATURE_EXTRACTION: '["some text", "another"]',
    Task.TEXT_RANKING: '"some query", ["some text", "another"]',
    Task.TEXT_GENERATION: '"Once upon a time"',
    Task.TRANSLATION: '"some text"',
    Task.SUMMARIZATION: '"some long text"',
    Task.TEXT_TO_TEXT: '"some text"',
}


def model_card(manifest: Manifest) -> str:
    """Return the text of a bundle's README.md."""
    source = manifest.source
    license_ = source.license or "not stated by the checkpoint"
    front = [f"license: {source.license}"] if source.license else []
    lines = [
        "---",
        "library_name: lmonnx",
        f"pipeline_tag: {manifest.task}",
        *front,
        "---",
        f"# {source.repo} ({manifest.precision})",
        "",
        f"An ONNX bundle for {manifest.task}, made by lmonnx from the {source.architecture} "
        f"checkpoint `{source.repo}`{f' at {source.revision}' if source.revision else ''}.",
        "",
        f"Licence: {license_}.",
        "",
        "```python",
        "import lmonnx",
        "",
        'model = lmonnx.load("path/to/this/folder")',
        f"model({_CALLS[manifest.task]})",
        "```",
        "",
        "## How it was made",
        "",
        *(line for step in manifest.history for line in _step(step, manifest)),
    ]
    return "\n".join(lines) + "\n"


def _step(step: Step, manifest: Manifest) -> list[str]:
    options = ", ".join(f"{name} {value}" for name, value in step.options.items()) or "no options"
    lines = [f"- **{step.stage}**: {options}"]
    lines += [
        f"  - against {parity.reference} on {parity.texts} texts: max |Δlogit| "
        f"{parity.max_difference:.2e} ({parity.relative:.2e} of the range), "
        f"{agreement_text(manifest, parity.agreement)}"
        for parity in step.parity
    ]
    return lines + [f"  - {name}: {value}" for name, value in (step.metrics or {}).items()]
