"""The command that writes a checkpoint as a bundle: export."""

from __future__ import annotations

from pathlib import Path

import click

from lmonnx.bundle.bundle import Bundle
from lmonnx.bundle.manifest import Parity, Pooling
from lmonnx.cli import options, render
from lmonnx.cli.bars import bars, is_watched
from lmonnx.cli.command import Command, require_extra
from lmonnx.cli.made import figures_of, metrics_of
from lmonnx.measure.decisions import agreement_text

ENGINES = ("auto", "native", "optimum", "adopt")


@click.command(
    cls=Command,
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
    warning = {name: text for name, text in metrics_of(made).items() if name == "warning"}
    render.figures({**figures_of(made), "parity": parity, **warning})


def _parity_text(parity: Parity, made: Bundle) -> str:
    return (
        f"{parity.relative:.2e} of the range from {parity.reference} on {parity.texts} texts, "
        f"{agreement_text(made.manifest, parity.agreement)}"
    )
