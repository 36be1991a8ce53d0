"""The command that restricts what an encoder-decoder may say: shortlist."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from lmonnx.bundle.bundle import Bundle
from lmonnx.cli import options, render
from lmonnx.cli.bars import bars
from lmonnx.cli.command import Command, require_extra
from lmonnx.cli.made import figures_of, metrics_of
from lmonnx.measure.accuracy import Columns, read_data
from lmonnx.measure.likelihood import read_text
from lmonnx.measure.references import has_references


@click.command(
    cls=Command,
    epilog="""\b
Examples:
  lmonnx shortlist opus-int8 -o opus-listed --data corpus.de
  lmonnx shortlist opus-int8 -o opus-listed --data pairs.tsv --max-drop 0.003
  lmonnx shortlist opus-int8 -o opus-top --data corpus.de --per-token 0 --top 8000
""",
)
@options.bundle
@options.output
@click.option(
    "--data",
    type=options.PATH,
    required=True,
    metavar="FILE",
    help="What to learn from: texts, one a line, which BUNDLE answers; or texts with references: "
    ".tsv, .csv, .jsonl, or any file whose first line has a tab.",
)
@options.text
@options.label
@click.option(
    "--top",
    type=click.IntRange(0),
    metavar="N",
    help="How many of the most frequent target tokens are always allowed; 300 unasked.",
)
@click.option(
    "--per-token",
    type=click.IntRange(0),
    metavar="K",
    help="How many target tokens a source token allows; 100 unasked, 0 leaves the most frequent "
    "alone.",
)
@click.option(
    "--max-drop",
    type=click.FloatRange(-1, 1),
    metavar="SHARE",
    help="What may be lost, 0.01 unasked: of BLEU and the like with references, else of the "
    "tokens that BUNDLE chooses. More ends in exit code 3 and no bundle.",
)
@click.option("--source-lang", metavar="CODE", help="The texts' language, of several.")
@click.option(
    "--target-lang", metavar="CODE", help="The answers' language; the new bundle knows no other."
)
@options.force
@options.as_json
def shortlist(
    *,
    bundle: Path,
    output: Path,
    data: Path,
    text: str,
    label: str,
    force: bool,
    as_json: bool,
    **limits: Any,  # options that have defaults of their own
) -> None:
    """Write encoder-decoder BUNDLE with a vocabulary shortlist, unless that loses too much.

    Every step then ranks only what some token of the source allows, as learnt from --data, and the
    most frequent tokens. An answer depends on its own source alone, whatever stands beside it. One
    text in ten is held back: on these the loss is measured. Quantize first.
    """
    require_extra("shortlist")
    from lmonnx.compiler.shortlist import shortlist as stage

    before = Bundle.open(bundle)
    given = {name: value for name, value in limits.items() if value is not None}
    if has_references(data):
        given["examples"] = read_data(data, before.manifest.task, Columns(text, label, None))
    else:
        given["text"] = read_text(data)
    with bars() as progress:
        made = stage(before, output, force=force, progress=progress, **given)
    if as_json:
        render.say(render.to_json({"bundle": str(made.path), **metrics_of(made)}))
    else:
        render.figures(figures_of(made) | _shown(made))


def _shown(made: Bundle) -> dict[str, str]:
    found = metrics_of(made)
    generation = made.manifest.generation
    vocabulary = generation.vocabulary if generation else 0
    low, high = found["interval"]
    return {
        "learnt from": f"{found['pairs']} pairs, and {found['asked']} rare tokens asked for",
        "list": f"{found['ids']:.0f} of {vocabulary} ids a source",
        "coverage": f"{found['coverage']:.2%} of the held tokens, {found['whole']:.1%} of the "
        f"texts whole; the input bundle gives them {found['inside']:.2%} of its probability",
        "drop": f"{found['drop']:.4f} of {found['measured']} on {found['texts']} held texts "
        f"(95% interval {low:.4f} to {high:.4f})",
    }
