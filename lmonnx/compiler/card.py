"""README.md of a bundle, made from its manifest: how it was made, parity, scores, licence."""

from __future__ import annotations

from lmonnx.bundle.manifest import Manifest, Step


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
        'model("some text")',
        "```",
        "",
        "## How it was made",
        "",
        *(line for step in manifest.history for line in _step(step)),
    ]
    return "\n".join(lines) + "\n"


def _step(step: Step) -> list[str]:
    options = ", ".join(f"{name} {value}" for name, value in step.options.items()) or "no options"
    lines = [f"- **{step.stage}**: {options}"]
    lines += [
        f"  - against {parity.reference} on {parity.texts} texts: max |Δlogit| "
        f"{parity.max_difference:.2e} ({parity.relative:.2e} of the range), "
        f"same label {parity.agreement:.2%}"
        for parity in step.parity
    ]
    return lines + [f"  - {name}: {value}" for name, value in (step.metrics or {}).items()]
