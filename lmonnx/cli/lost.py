"""What quantize tells: how much smaller a bundle is, and what it lost."""

from __future__ import annotations

from typing import Any

from lmonnx.bundle.bundle import Bundle
from lmonnx.cli import render
from lmonnx.cli.made import figures_of, metrics_of
from lmonnx.measure.decisions import agreed, decides


def print_lost(before: Bundle, made: Bundle, *, as_json: bool) -> None:
    """Print what `made` is beside `before`, which it was quantized from."""
    if as_json:
        render.say(render.to_json(_sizes(before, made) | dict(metrics_of(made))))
    elif made.manifest.generation is not None:
        _print_perplexity(before, made)
    else:
        _print_drop(before, made)


def _print_perplexity(before: Bundle, made: Bundle) -> None:
    metrics = metrics_of(made)
    shown = {}
    if "measured" in metrics:
        shown["drop"] = f"{metrics['drop']:.4f} of {metrics['measured']}"
    for role, found in metrics["graphs"].items():
        low, high = found["interval"]
        name = "perplexity" if len(metrics["graphs"]) == 1 else f"perplexity, {role}"
        shown[name] = (
            f"{found['perplexity']:.2f}, {found['reference']:.2f} before: {found['ratio']:.4f} × "
            f"(95% interval {low:.4f} to {high:.4f}); KL {found['kl']:.4f}, the same likeliest "
            f"token {found['agreement']:.1%}, {found['predictions']} predictions"
        )
    seconds = ", ".join(f"{name} {spent:.0f} s" for name, spent in metrics["seconds"].items())
    render.figures({**figures_of(made), "size": _shrunk(before, made), **shown, "took": seconds})


def _shrunk(before: Bundle, made: Bundle) -> str:
    share = made.bytes / before.bytes
    return f"{render.size(before.bytes)} before, {render.size(made.bytes)} after ({share:.2f} ×)"


def _print_drop(before: Bundle, made: Bundle) -> None:
    metrics = metrics_of(made)
    low, high = metrics["interval"]
    widened = metrics["widened"]
    warning = {"warning": metrics["warning"]} if "warning" in metrics else {}
    entities = {"same entities": f"{metrics['entities']:.2%}"} if "entities" in metrics else {}
    render.figures(
        {
            **figures_of(made),
            "size": _shrunk(before, made),
            "drop": f"{metrics['drop']:.4f} of {metrics['measured']} on {metrics['texts']} texts "
            f"(95% interval {low:.4f} to {high:.4f})",
            **_alike(made, metrics["agreement"]),
            **entities,
            "widened": f"{len(widened)} of {metrics['layers']} layers"
            + (f": {', '.join(widened)}" if widened else ""),
            **warning,
        }
    )


def _alike(made: Bundle, agreement: float) -> dict[str, str]:
    """Say how far the answers are those of the input bundle."""
    if decides(made.manifest):
        return {agreed(made.manifest): f"{agreement:.2%}"}
    return {"correlation": f"{agreement:.4f}"}


def _sizes(before: Bundle, made: Bundle) -> dict[str, Any]:
    return {"bundle": str(made.path), "bytes": made.bytes, "input_bytes": before.bytes}
