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
from lmonnx.measure.likelihood import read_text

ENGINES = ("auto", "native", "optimum", "adopt")


@click.command(
    cls=Command,
    short_help="Write a checkpoint as a bundle.",
    epilog="""\b
Examples:
  lmonnx export distilbert/distilbert-base-uncased-finetuned-sst-2-english -o sst2
  lmonnx export ./my-checkpoint -o mine --engine native
  lmonnx export SmolLM2-135M-Instruct-Q8_0.gguf -o smollm2
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
  lmonnx quantize smollm2 -o smollm2-int4 --bits 4
  lmonnx quantize smollm2 -o smollm2-both --method both
""",
)
@options.bundle
@options.output
@click.option(
    "--method",
    type=click.Choice(["dynamic", "weight-only", "both"]),
    help="dynamic: int8 weights, activations quantized as they come (encoders, and many rows at "
    "once). weight-only: blocks of 4 or 8 bits (decoders, unasked). both: a graph of each.",
)
@click.option("--bits", type=click.Choice(["4", "8"]), help="Weight-only: 4 unasked.")
@click.option(
    "--block-size",
    type=click.Choice(["32", "64", "128"]),
    help="Weight-only: weights that share a scale at most; 32 unasked. 4 bits in larger blocks "
    "prefill faster, and an answer then depends on its company.",
)
@click.option(
    "--head-bits", type=click.Choice(["4", "8"]), help="Weight-only: of the head; 4 unasked."
)
@click.option(
    "--no-calibrate",
    is_flag=True,
    help="Decoders: round to the nearest, in a tenth of the time and less well.",
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
    metavar="SHARE",
    help="Accuracy, F1 or correlation that may be lost, 0.01 unasked; more ends in exit code 3 and "
    "no bundle. Of decoders by how much perplexity may rise: 0.2 of 4 bits, 0.05 by rows, 0.01 "
    "of 8 bits unasked.",
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
    method: str | None,
    granularity: str,
    data: Path | None,
    text: str,
    label: str,
    text_pair: str | None,
    max_drop: float | None,
    keep: tuple[str, ...],
    force: bool,
    as_json: bool,
    **blocks: Any,  # options of weight-only
) -> None:
    """Write BUNDLE with weights of 8 or 4 bits, unless it then loses too much accuracy.

    The drop against BUNDLE is measured on --data, which is what `lmonnx eval` reads: of accuracy,
    of F1 for entities and answers, of a correlation for scores and embeddings. Without it 500
    sentences that come with lmonnx serve, and BUNDLE's own answers are the truth. Decoders are held
    to their perplexity on --data, a plain text, or on half of the sentences. Encoder-decoders are
    held to BLEU and the like on --data with references, else to how likely BUNDLE's own answers
    remain, of the lines of --data or of half of the sentences.
    """
    require_extra("quantize")
    from lmonnx.compiler.quantize import quantize as stage

    before = Bundle.open(bundle)
    given: dict[str, Any] = _of_blocks(before, blocks)
    if data and _is_plain(data, before):
        given["text"] = read_text(data)
    elif data:
        given["examples"] = read_data(data, before.manifest.task, Columns(text, label, text_pair))
    with bars() as progress:
        made = stage(
            before,
            output,
            method=method,
            granularity=granularity,
            max_drop=max_drop,
            keep=keep,
            force=force,
            progress=progress,
            **given,
        )
    _report(before, made, as_json=as_json)


def _is_plain(data: Path, bundle: Bundle) -> bool:
    """Say whether data is read as running text, without labels."""
    generation = bundle.manifest.generation
    if generation is None:
        return False
    return generation.seq2seq is None or data.suffix.lower() not in {".tsv", ".csv", ".jsonl"}


def _of_blocks(bundle: Bundle, asked: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of weight-only that were given, refused for what is no decoder."""
    given = {name: int(value) for name, value in asked.items() if name != "no_calibrate" and value}
    if asked["no_calibrate"]:
        given["calibrate"] = False
    if given and bundle.manifest.generation is None:
        option = min(given).replace("_", "-").replace("calibrate", "no-calibrate")
        raise click.UsageError(f"--{option} is for decoders")
    return given


def _report(before: Bundle, made: Bundle, *, as_json: bool) -> None:
    if as_json:
        render.say(render.to_json(_sizes(before, made) | dict(_metrics(made))))
    elif made.manifest.generation is not None:
        _print_perplexity(before, made)
    else:
        _print_drop(before, made)


def _print_perplexity(before: Bundle, made: Bundle) -> None:
    metrics = _metrics(made)
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
    render.figures(
        {**_bundle_figures(made), "size": _shrunk(before, made), **shown, "took": seconds}
    )


def _shrunk(before: Bundle, made: Bundle) -> str:
    share = made.bytes / before.bytes
    return f"{render.size(before.bytes)} before, {render.size(made.bytes)} after ({share:.2f} ×)"


def _print_drop(before: Bundle, made: Bundle) -> None:
    metrics = _metrics(made)
    low, high = metrics["interval"]
    widened = metrics["widened"]
    warning = {"warning": metrics["warning"]} if "warning" in metrics else {}
    entities = {"same entities": f"{metrics['entities']:.2%}"} if "entities" in metrics else {}
    render.figures(
        {
            **_bundle_figures(made),
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
