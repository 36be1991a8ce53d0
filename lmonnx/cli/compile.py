"""The commands that write bundles: export, optimize, quantize."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from lmonnx.bundle.bundle import Bundle
from lmonnx.bundle.manifest import Parity, Pooling
from lmonnx.cli import options, render
from lmonnx.cli.bars import bars, is_watched
from lmonnx.cli.command import Command, require_extra
from lmonnx.measure.accuracy import Columns, read_data
from lmonnx.measure.decisions import agreed, agreement_text, decides

ENGINES = ("auto", "native", "optimum", "adopt")


@click.command(
    cls=Command,
    short_help="Write a checkpoint as a bundle.",
    epilog="""\b
Examples:
  lmonnx export distilbert/distilbert-base-uncased-finetuned-sst-2-english -o sst2
  lmonnx export ./my-checkpoint -o mine --engine native
  lmonnx export some/onnx-repository -o theirs --engine adopt --variant int8

\b
HF_HOME, HF_TOKEN, HF_ENDPOINT and HF_HUB_OFFLINE are honoured.
""",
)
@click.argument("source")
@options.output
@click.option("--task", metavar="TASK", help="What the model is for; else config.json says it.")
@click.option(
    "--engine",
    type=click.Choice(ENGINES),
    default=ENGINES[0],
    show_default=True,
    help="What makes the graph: lmonnx itself from the weights, optimum by tracing, or nothing "
    "where there is ONNX to adopt.",
)
@click.option("--variant", metavar="SUFFIX", help="The ONNX file to adopt, such as int8 or fp16.")
@click.option(
    "--pooling",
    type=click.Choice([mode.value for mode in Pooling if mode is not Pooling.NONE]),
    help="How an embedder's token vectors become one; else the checkpoint's files say it, or mean.",
)
@click.option("--revision", metavar="REV", help="Branch, tag or commit on the hub.")
@click.option("--no-verify", is_flag=True, help="Do not compare with transformers.")
@options.force
def export(
    *,
    source: str,
    output: Path,
    task: str | None,
    engine: str,
    variant: str | None,
    pooling: str | None,
    revision: str | None,
    no_verify: bool,
    force: bool,
) -> None:
    """Write the checkpoint SOURCE, a folder or a hub id, as a bundle of float32 graphs.

    Where transformers is installed, the answers of both are compared and the figures stored.
    """
    require_extra("export")
    from lmonnx.compiler.checkpoint import open_checkpoint
    from lmonnx.compiler.export import Engine
    from lmonnx.compiler.export import export as stage

    checkpoint = open_checkpoint(source, revision=revision, progress=is_watched())
    with bars() as progress:
        made = stage(
            checkpoint,
            output,
            task=task,
            engine=Engine(engine),
            variant=variant,
            pooling=pooling,
            force=force,
            verify=not no_verify,
            progress=progress,
        )
    shown = [_parity_text(parity, made) for parity in made.manifest.history[-1].parity]
    later = f"`lmonnx verify {output} --against {source}` does it later"
    missing = "--no-verify" if no_verify else f"transformers is not installed; {later}"
    parity = "; ".join(shown) or f"not measured: {missing}"
    render.figures({**_bundle_figures(made), "parity": parity})


@click.command(
    cls=Command,
    short_help="Fuse the graph of a bundle.",
    epilog="""\b
Examples:
  lmonnx optimize sst2 -o sst2-opt
""",
)
@options.bundle
@options.output
@options.force
def optimize(*, bundle: Path, output: Path, force: bool) -> None:
    """Fuse the graph of BUNDLE: the same answers from fewer nodes, and a faster load."""
    require_extra("optimize")
    from lmonnx.compiler.optimize import optimize as stage

    before = Bundle.open(bundle)
    made = stage(before, output, force=force)
    _print_fusions(made)
    for name, graph in made.manifest.graphs.items():
        _print_changes(before.manifest.graphs[name].operators, graph.operators)


def _print_fusions(made: Bundle) -> None:
    metrics = _metrics(made)
    nodes, fewer = metrics["nodes"]
    load = {}
    if "load_ms" in metrics:  # a decoder's graph stays as it was exported, fused
        slow, fast = metrics["load_ms"]
        load = {"load": f"{slow:.0f} ms before, {fast:.0f} ms after"}
    render.figures(
        {
            **_bundle_figures(made),
            "nodes": f"{nodes} before, {fewer} after",
            **load,
            "fused": render.inline(metrics["fused"]),
        }
    )


def _print_changes(before: Mapping[str, int], after: Mapping[str, int]) -> None:
    changed = sorted(
        operator
        for operator in before.keys() | after.keys()
        if before.get(operator, 0) != after.get(operator, 0)
    )
    render.heading("operators that changed")
    rows = [(name, str(before.get(name, 0)), str(after.get(name, 0))) for name in changed]
    render.table(("operator", "before", "after"), rows, right=("before", "after"))


@click.command(
    cls=Command,
    short_help="Write int8 weights, if accuracy holds.",
    epilog="""\b
Examples:
  lmonnx quantize sst2-opt -o sst2-int8
  lmonnx quantize sst2-opt -o sst2-int8 --data dev.tsv --max-drop 0.005
  lmonnx quantize sst2-opt -o sst2-int8 --keep "layer.0."
""",
)
@options.bundle
@options.output
@click.option(
    "--method",
    type=click.Choice(["dynamic"]),
    default="dynamic",
    show_default=True,
    help="dynamic: int8 weights, activations quantized as they come.",
)
@click.option(
    "--granularity",
    type=click.Choice(["row", "tensor"]),
    default="row",
    show_default=True,
    help="One activation scale a row, so that an answer does not depend on its batch; or one a "
    "tensor, which is faster.",
)
@options.data
@options.columns
@click.option(
    "--max-drop",
    type=click.FloatRange(-1, 1),
    default=0.01,
    show_default=True,
    metavar="SHARE",
    help="Accuracy, F1 or correlation that may be lost; more ends in exit code 3 and no bundle.",
)
@click.option(
    "--keep",
    multiple=True,
    metavar="PATTERN",
    help="Layers to leave in float32: a part of the name, * for anything.",
)
@options.force
@options.as_json
def quantize(
    *,
    bundle: Path,
    output: Path,
    method: str,
    granularity: str,
    data: Path | None,
    text: str,
    label: str,
    text_pair: str | None,
    max_drop: float,
    keep: tuple[str, ...],
    force: bool,
    as_json: bool,
) -> None:
    """Write BUNDLE with int8 weights, unless it then loses too much accuracy.

    The drop against BUNDLE is measured on --data, which is what `lmonnx eval` reads: of accuracy,
    of F1 for entities and answers, of a correlation for scores and embeddings. Without it 500
    sentences that come with lmonnx serve, and BUNDLE's own answers are the truth.
    """
    require_extra("quantize")
    from lmonnx.compiler.quantize import quantize as stage

    before = Bundle.open(bundle)
    columns = Columns(text, label, text_pair)
    read = read_data(data, before.manifest.task, columns) if data else None
    with bars() as progress:
        made = stage(
            before,
            output,
            method=method,
            granularity=granularity,
            examples=read,
            max_drop=max_drop,
            keep=keep,
            force=force,
            progress=progress,
        )
    _report(before, made, as_json=as_json)


def _report(before: Bundle, made: Bundle, *, as_json: bool) -> None:
    if as_json:
        render.say(render.to_json(_sizes(before, made) | dict(_metrics(made))))
    else:
        _print_drop(before, made)


def _print_drop(before: Bundle, made: Bundle) -> None:
    metrics = _metrics(made)
    low, high = metrics["interval"]
    widened = metrics["widened"]
    warning = {"warning": metrics["warning"]} if "warning" in metrics else {}
    entities = {"same entities": f"{metrics['entities']:.2%}"} if "entities" in metrics else {}
    render.figures(
        {
            **_bundle_figures(made),
            "size": f"{render.size(before.bytes)} before, {render.size(made.bytes)} after "
            f"({made.bytes / before.bytes:.2f} ×)",
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


def _bundle_figures(made: Bundle) -> dict[str, str]:
    graphs = made.manifest.graphs.values()
    nodes = sum(sum(graph.operators.values()) for graph in graphs)
    kinds = len({operator for graph in graphs for operator in graph.operators})
    return {
        "bundle": str(made.path),
        "size": render.size(made.bytes),
        "operators": f"{nodes} nodes of {kinds} kinds",
    }


def _parity_text(parity: Parity, made: Bundle) -> str:
    return (
        f"{parity.relative:.2e} of the range from {parity.reference} on {parity.texts} texts, "
        f"{agreement_text(made.manifest, parity.agreement)}"
    )


def _metrics(made: Bundle) -> Mapping[str, Any]:
    return made.manifest.history[-1].metrics or {}


def _sizes(before: Bundle, made: Bundle) -> dict[str, Any]:
    return {"bundle": str(made.path), "bytes": made.bytes, "input_bytes": before.bytes}
