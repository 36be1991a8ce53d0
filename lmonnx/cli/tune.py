"""The command that finds a bundle's fastest settings on this host: tune."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from lmonnx.bundle.fields import encode
from lmonnx.cli import options, render
from lmonnx.cli.bars import bars
from lmonnx.cli.command import Command
from lmonnx.errors import InputError
from lmonnx.runtime.session import CPU
from lmonnx.runtime.tuned import Tuned


@click.command(
    cls=Command,
    epilog="""\b
Examples:
  lmonnx tune sst2-int8
  lmonnx tune sst2-int8 --file reviews.txt --json
  lmonnx tune smollm2-both

\b
LMONNX_CACHE, else XDG_CACHE_HOME, says where the settings are kept.
""",
)
@options.bundle
@click.option("--file", metavar="TEXTS", help="Texts like those to come, one a line; - is stdin.")
@options.as_json
@options.provider
def tune(*, bundle: Path, file: str | None, as_json: bool, providers: tuple[str, ...]) -> None:
    """Measure how to batch texts for BUNDLE here, with how many threads, and which kernel.

    Of a decoder: how many threads, and up to how many sequences its 4-bit graph is taken.

    The fastest settings are kept in this user's cache, not in the bundle, and `run`, `bench` and
    lmonnx.load use them from then on, unless told otherwise. Takes some seconds.
    """
    from lmonnx.bundle.bundle import Bundle

    if Bundle.open(bundle, verify=False).manifest.generation is not None:
        _tune_decoder(bundle, file, providers or (CPU,), as_json=as_json)
    else:
        _tune_texts(bundle, file, providers or (CPU,), as_json=as_json)


def _tune_texts(path: Path, file: str | None, providers: Sequence[str], *, as_json: bool) -> None:
    from lmonnx.measure.sentences import gate_sentences
    from lmonnx.measure.tune import tune as measure

    texts = list(options.file_texts(file)) if file is not None else list(gate_sentences())
    with bars() as progress:
        found = measure(path, texts, providers=providers, progress=progress)
    if as_json:
        render.say(render.to_json(encode(found)))
        return
    best = found.settings
    render.figures(
        {
            "threads": str(best.threads),
            "tokens a batch": str(best.max_tokens),
            "batches": _batching(best),
            "int8 kernel": "wide" if best.wide_int8 else "default",
            "against the defaults": f"{found.gain:.2f} ×",
            "kept in": found.file,
        }
    )
    render.heading("tried")
    rows = [
        (
            str(t.settings.threads),
            str(t.settings.max_tokens),
            _batching(t.settings),
            f"{t.texts_per_s:.0f}",
        )
        for t in found.trials
    ]
    render.table(("threads", "tokens", "batches", "texts/s"), rows, right=("texts/s",))


def _tune_decoder(path: Path, file: str | None, providers: Sequence[str], *, as_json: bool) -> None:
    from lmonnx.measure.tune_decoder import tune_decoder

    if file is not None:
        raise InputError(f"--file means nothing for {path}, a decoder; leave it out")
    with bars() as progress:
        found = tune_decoder(path, providers=providers, progress=progress)
    if as_json:
        render.say(render.to_json(encode(found)))
        return
    best = found.settings
    lone = {} if best.lone_rows is None else {"sequences of lone": f"up to {best.lone_rows}"}
    render.figures(
        {
            "threads": str(best.threads),
            **lone,
            "against the defaults": f"{found.gain:.2f} ×",
            "kept in": found.file,
        }
    )
    render.heading("tried")
    steps = sorted(found.steps, key=lambda step: (step.rows, step.graph, -step.threads))
    rows = [(str(s.rows), s.graph, str(s.threads), f"{s.ms:.2f}") for s in steps]
    render.table(("rows", "graph", "threads", "ms"), rows, right=("rows", "ms"))


def _batching(settings: Tuned) -> str:
    return "a thread each" if settings.thread_per_batch else "one at a time"
