"""The command that writes weights of few bits: quantize."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from lmonnx.bundle.bundle import Bundle
from lmonnx.cli import options
from lmonnx.cli.bars import bars
from lmonnx.cli.command import Command, require_extra
from lmonnx.cli.lost import print_lost
from lmonnx.measure.accuracy import Columns, read_data
from lmonnx.measure.likelihood import read_text
from lmonnx.measure.references import has_references


@click.command(
    cls=Command,
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
    "--no-int8-prompts",
    is_flag=True,
    help="Decoders of 4 bits: leave out the graph that reads prompts two to three times as fast, "
    "with int8 products of the same weights, for a byte of memory a weight.",
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
    held to BLEU and the like on --data with references (.tsv, .csv, .jsonl, or any text whose first
    line has a tab), else to how likely BUNDLE's own answers remain, of the lines of --data or of
    half of the sentences.
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
    print_lost(before, made, as_json=as_json)


def _is_plain(data: Path, bundle: Bundle) -> bool:
    """Say whether data is read as running text, without labels."""
    generation = bundle.manifest.generation
    if generation is None:
        return False
    return generation.seq2seq is None or not has_references(data)


def _of_blocks(bundle: Bundle, asked: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of weight-only that were given, refused for what is no decoder."""
    stated = {name: value for name, value in asked.items() if value}
    if stated and bundle.manifest.generation is None:
        raise click.UsageError(f"--{min(stated).replace('_', '-')} is for decoders")
    numbers = {name: int(value) for name, value in stated.items() if value is not True}
    left_out = [name for name, value in stated.items() if value is True]
    return numbers | {name.removeprefix("no_"): False for name in left_out}
