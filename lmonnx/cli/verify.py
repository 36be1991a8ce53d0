"""The command that compares a bundle with a reference: verify."""

from __future__ import annotations

from pathlib import Path

import click

from lmonnx.bundle.bundle import Bundle
from lmonnx.bundle.fields import encode
from lmonnx.bundle.manifest import Parity
from lmonnx.cli import options, render
from lmonnx.cli.bars import bars, is_watched
from lmonnx.cli.command import Command, require_extra
from lmonnx.errors import ParityError
from lmonnx.measure.decisions import agreed, decides, decision_of
from lmonnx.measure.next_logits import raw_models
from lmonnx.measure.parity import read_golden, require_parity, worst_parity


@click.command(
    cls=Command,
    epilog="""\b
Examples:
  lmonnx verify sst2 --against distilbert/distilbert-base-uncased-finetuned-sst-2-english
  lmonnx verify sst2-int8 --golden golden.json --json
  lmonnx verify smol-int4 --against smollm2-135m-instruct-f16.gguf
""",
)
@options.bundle
@click.option("--against", metavar="CHECKPOINT", help="Compare with transformers, run here.")
@click.option(
    "--golden",
    type=options.PATH,
    metavar="FILE",
    help="Compare with stored answers: JSON with source, texts and logits.",
)
@options.as_json
def verify(*, bundle: Path, against: str | None, golden: Path | None, as_json: bool) -> None:
    """Compare BUNDLE's raw outputs with a reference's; too far apart ends in exit code 3.

    float32 may differ by 1e-4 of the outputs' range. int8 may decide 3% otherwise, 4 bits 10%,
    near-ties aside: of the texts, tokens, masks, or starts and ends of answers. Of a decoder the
    token after each text is compared, by the worst of its graphs; of an encoder-decoder every token
    of an answer, and in float32 its own answers, greedy and of 4 beams. Where nothing is decided
    the values' correlation, or the vectors' mean cosine similarity, must be 0.97. What --against
    finds is stored in the bundle if it is near enough.
    """
    if (against is None) == (golden is None):
        raise click.UsageError("give one reference: --against CHECKPOINT or --golden FILE")
    if golden is not None:
        answers, opened = read_golden(golden), Bundle.open(bundle)
        if opened.manifest.generation and opened.manifest.generation.seq2seq:
            raise click.UsageError("encoder-decoders are compared with --against CHECKPOINT")
        _report(worst_parity(raw_models(opened), answers), opened, as_json=as_json)
    else:
        _verify_against(Bundle.open(bundle), str(against), as_json=as_json)


def _verify_against(bundle: Bundle, source: str, *, as_json: bool) -> None:
    require_extra("verify --against")
    from lmonnx.bundle.draft import record
    from lmonnx.compiler.checkpoint import open_checkpoint
    from lmonnx.compiler.stage import make_step
    from lmonnx.compiler.verify import verify_against

    checkpoint = open_checkpoint(source, progress=is_watched())
    with bars() as progress:
        parity = verify_against(bundle, checkpoint, progress=progress)
    _report(parity, bundle, as_json=as_json)
    reference = {"against": checkpoint.repo, "revision": checkpoint.revision}
    record(bundle, make_step("verify", reference, parity=(parity,)))


def _report(parity: Parity, bundle: Bundle, *, as_json: bool) -> None:
    """Print the figures, and only then refuse them.

    Raises:
        ParityError: They are too far from the reference's.
    """
    manifest = bundle.manifest
    decision = decision_of(manifest)
    missed: ParityError | None = None
    try:
        require_parity(parity, manifest.precision, decision)
    except ParityError as error:
        missed = error
    if as_json:
        render.say(render.to_json({**encode(parity), "passed": missed is None}))
    else:
        render.figures(
            {
                "reference": f"{parity.reference}, {parity.texts} texts",
                "max |Δlogit|": f"{parity.max_difference:.2e}",
                "of the range": f"{parity.relative:.2e}",
                agreed(manifest): _agreement(parity, decides=decides(manifest)),
                "parity": "missed" if missed else "held",
            }
        )
    if missed:
        raise missed


def _agreement(parity: Parity, *, decides: bool) -> str:
    if not decides:
        return f"{parity.agreement:.6f}"
    return f"{parity.agreement:.2%} ({parity.clear_agreement:.2%} near-ties aside)"
