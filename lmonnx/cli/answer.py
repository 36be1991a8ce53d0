"""The command that answers texts: run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path

import click

from lmonnx.bundle.fields import encode
from lmonnx.cli import options, render
from lmonnx.cli.command import Command
from lmonnx.errors import InputError
from lmonnx.runtime.loading import load
from lmonnx.runtime.pipelines.base import LOOK_AHEAD
from lmonnx.runtime.pipelines.text_classification import Classification
from lmonnx.runtime.session import CPU
from lmonnx.runtime.tokenizer import Long, Text

_COLUMNS = ("label", "score", "text")


def _top_k(_: click.Context, __: click.Parameter, value: str) -> int | None:
    if value == "all":
        return None
    if value.isascii() and value.isdigit() and int(value) > 0:
        return int(value)
    raise click.BadParameter(f"{value!r} is neither a number of at least 1 nor 'all'.")


@click.command(
    cls=Command,
    short_help="Answer texts.",
    epilog="""\b
Examples:
  lmonnx run sst2-int8 "a gorgeous film" "a waste of time"
  lmonnx run sst2-int8 --file reviews.txt --json > answers.jsonl
  lmonnx run pairs "Who wrote it?" --text-pair "It was written by Ada."
""",
)
@options.bundle
@click.argument("texts", nargs=-1, metavar="[TEXT]...")
@click.option("--file", metavar="PATH", help="Texts, one a line; - is standard input.")
@click.option(
    "--text-pair",
    "pairs",
    multiple=True,
    metavar="TEXT",
    help="Second text: once for all texts, or once for each.",
)
@click.option(
    "--top-k",
    default="1",
    show_default=True,
    callback=_top_k,
    metavar="N|all",
    help="How many labels to give, the best first.",
)
@click.option(
    "--long",
    type=click.Choice([rule.value for rule in Long]),
    default=Long.WINDOW.value,
    show_default=True,
    help="Text longer than the model: the mean over windows, the beginning alone, or an error.",
)
@options.as_json
@options.runtime
def run(
    *,
    bundle: Path,
    texts: tuple[str, ...],
    file: str | None,
    pairs: tuple[str, ...],
    top_k: int | None,
    long: str,
    as_json: bool,
    threads: int | None,
    providers: tuple[str, ...],
) -> None:
    """Answer texts with BUNDLE: TEXT arguments first, then those of --file.

    Answers come in the order of the texts: a table on a terminal, else lines of label, score and
    text with tabs between. With --json an object a line: label, score, how many windows the text
    took, and labels when --top-k is not 1.
    """
    if not texts and file is None:
        raise click.UsageError("give TEXT, or --file PATH (- is standard input)")
    given = chain(_arguments(texts), options.file_texts(file) if file is not None else ())
    items = _paired(given, list(_arguments(pairs)))
    model = load(bundle, providers=providers or (CPU,), threads=threads, long=long)
    while chunk := list(islice(items, LOOK_AHEAD)):
        answers = model.stream(chunk, top_k=top_k)
        if as_json:
            render.say("\n".join(_line(answer, top_k) for answer in answers))
        else:
            _print_answers(chunk, answers)


def _arguments(texts: Iterable[str]) -> Iterator[str]:
    for text in texts:
        try:
            text.encode()
        except UnicodeEncodeError as error:
            shown = text.encode(errors="replace").decode()
            raise InputError(
                f"the argument {shown!r:.80} is not UTF-8; write it to a file and pass --file"
            ) from error
        yield text


def _paired(texts: Iterator[str], pairs: Sequence[str]) -> Iterator[Text]:
    """Put one second text beside every text, or one beside each.

    Raises:
        UsageError: There are several second texts, and not as many as texts.
    """
    if not pairs:
        return texts
    if len(pairs) == 1:
        return ((text, pairs[0]) for text in texts)
    held = list(islice(texts, len(pairs) + 1))
    if len(held) != len(pairs):
        more = "more" if len(held) > len(pairs) else str(len(held))
        raise click.UsageError(
            f"{len(pairs)} --text-pair for {more} texts; give one for each, or one for all"
        )
    return iter(list(zip(held, pairs, strict=True)))


def _line(answer: Classification, top_k: int | None) -> str:
    line = {"label": answer.label, "score": answer.score, "windows": answer.windows}
    return render.to_json(line if top_k == 1 else {**line, "labels": encode(answer.labels)})


def _print_answers(texts: Sequence[Text], answers: Iterable[Classification]) -> None:
    rows = [
        (label.label, f"{label.score:.4f}", text if isinstance(text, str) else " | ".join(text))
        for text, answer in zip(texts, answers, strict=True)
        for label in answer.labels
    ]
    render.table(_COLUMNS, rows, right=("score",), cut=("text",), header=False)
