"""The command that answers texts: run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any

import click

from lmonnx.bundle.manifest import Task
from lmonnx.cli import completion, options, render, rewriting
from lmonnx.cli.command import Command
from lmonnx.cli.forms import FORMS, Form, Given, Row, Shown
from lmonnx.errors import InputError
from lmonnx.runtime.loading import load
from lmonnx.runtime.pipelines import GENERATORS, PIPELINES, REWRITERS
from lmonnx.runtime.session import CPU
from lmonnx.runtime.tokenizer import Long

_COUNT = click.IntRange(min=1)


ALL = "all"
# Tasks whose --top-k is a number.
_COUNTED = {Task.QUESTION_ANSWERING, Task.FILL_MASK, *GENERATORS, *REWRITERS}


def _top_k(_: click.Context, __: click.Parameter, value: str | None) -> int | str | None:
    if value is None or value == ALL:
        return value
    if value.isascii() and value.isdigit() and int(value) > 0:
        return int(value)
    raise click.BadParameter(f"{value!r} is neither a number of at least 1 nor 'all'.")


_questions = options.together(
    click.option(
        "--question", multiple=True, metavar="TEXT", help="A question, for question-answering."
    ),
    click.option(
        "--context",
        multiple=True,
        metavar="TEXT",
        help="Where the answer is; TEXT and --file are contexts too.",
    ),
    click.option(
        "--doc-stride",
        type=click.IntRange(min=0),
        metavar="N",
        help="Tokens that two windows share.",
    ),
    click.option("--max-answer-len", type=_COUNT, metavar="N", help="Tokens of an answer."),
    click.option(
        "--handle-impossible-answer",
        is_flag=True,
        default=None,
        help="Allow that there is no answer in the context.",
    ),
)
_entities = options.together(
    click.option(
        "--aggregation-strategy",
        type=click.Choice(["none", "simple", "first", "average", "max"]),
        help="How tokens become entities, as in transformers; by default none.",
    ),
    click.option(
        "--stride",
        type=click.IntRange(min=0),
        metavar="N",
        help="Cut long text as transformers does, N tokens shared by neighbours.",
    ),
)
_labels = options.together(
    click.option(
        "--candidate-labels", metavar="A,B", help="Labels to choose from, for zero-shot models."
    ),
    click.option(
        "--hypothesis-template",
        metavar="TEXT",
        help='What is claimed of a text; by default "This example is {}."',
    ),
    click.option(
        "--multi-label", is_flag=True, default=None, help="Each label is a question of its own."
    ),
)
_vectors = options.together(
    click.option("--prompt-name", metavar="NAME", help="The bundle's prompt before each text."),
    click.option("--dimensions", type=_COUNT, metavar="N", help="Cut vectors to N values."),
    click.option(
        "--precision",
        type=click.Choice(["float32", "int8", "uint8", "binary", "ubinary"]),
        help="The vectors' type.",
    ),
)


@click.command(
    cls=Command,
    epilog="""\b
Examples:
  lmonnx run sst2-int8 "a gorgeous film" "a waste of time"
  lmonnx run sst2-int8 --file reviews.txt --json > answers.jsonl
  lmonnx run ner --aggregation-strategy simple "Ada Lovelace was born in London"
  lmonnx run qa --question "Who wrote it?" --context "It was written by Ada."
  lmonnx run mlm "Paris is the [MASK] of France."
  lmonnx run nli --candidate-labels travel,cooking "one day I will see the world"
  lmonnx run reranker --query "capital of France" "Paris" "a loaf of bread"
  lmonnx run embedder --file lines.txt --json > vectors.jsonl
  lmonnx run smollm2 "Once upon a time" --max-new-tokens 40
  lmonnx run smollm2 --chat "What is the capital of France?" --json
  lmonnx run opus-mt-de-en "Das Haus ist groß." --num-beams 4
  lmonnx run nllb --source-lang deu_Latn --target-lang eng_Latn - < german.txt > english.txt
""",
)
@options.bundle
@click.argument("texts", nargs=-1, metavar="[TEXT]...")
@click.option("--file", metavar="PATH", help="Texts, one a line; - is standard input.")
@click.option(
    "--task",
    type=click.Choice([task.value for task in Task]),
    metavar="TASK",
    help="Another task that the bundle's graph serves: a classifier trained on NLI also answers "
    "zero-shot-classification, one of a single label text-ranking.",
)
@click.option(
    "--text-pair",
    multiple=True,
    metavar="TEXT",
    help="Second text, for classifiers of pairs: once for all texts, or once for each.",
)
@click.option(
    "--top-k",
    callback=_top_k,
    metavar="N|all",
    help="How many labels, answers, tokens or documents to give, the best first; by default 1 "
    "label or answer, 5 tokens, all documents. Of decoders: draw from the N likeliest.",
)
@click.option("--query", metavar="TEXT", help="What documents are ranked for; these are the TEXTs.")
@_questions
@_entities
@click.option(
    "--targets", multiple=True, metavar="WORD", help="Words to choose from, for fill-mask."
)
@_labels
@_vectors
@completion.sampling
@completion.several
@rewriting.asked
@completion.capacity
@click.option(
    "--long",
    type=click.Choice([rule.value for rule in Long]),
    help="Text longer than the model: its windows' mean or highest score, the beginning alone, or "
    "an error; by default what suits the task.",
)
@options.as_json
@options.runtime
def run(
    *,
    bundle: Path,
    texts: tuple[str, ...],
    file: str | None,
    task: str | None,
    long: str | None,
    slots: int | None,
    context_length: int | None,
    as_json: bool,
    threads: int | None,
    providers: tuple[str, ...],
    **asked: Any,  # options of single tasks: forms.py says which
) -> None:
    """Answer texts with BUNDLE: TEXT arguments first, then those of --file.

    Answers come in the order of the texts: a table on a terminal, else lines of cells with tabs
    between. With --json a line a text, in the keys of transformers' pipelines: an object for
    classification, a list for entities and masks, an object a document for rankings, best first,
    an object a completion for generation. One prompt alone is completed as plain text, as it comes.
    Translations and the like are lines, one a text; --json has an object a text, of several answers
    a list. TEXT - alone is standard input.
    """
    if texts == ("-",) and file is None:
        texts, file = (), "-"
    given = {name: value for name, value in asked.items() if value not in (None, ())}
    for value in given.values():
        list(_arguments([value] if isinstance(value, str) else _strings(value)))
    if not texts and file is None and "context" not in given:
        also = ", or --context" if "question" in given else ""
        raise click.UsageError(f"give TEXT, or --file PATH (- is standard input){also}")
    model = load(
        bundle,
        task=task or _implied(given),
        providers=providers or (CPU,),
        threads=threads,
        long=long,
        slots=slots,
        context=context_length,
    )
    kinds = {**PIPELINES, **GENERATORS, **REWRITERS}
    served = next(name for name, kind in kinds.items() if type(model) is kind)
    form = FORMS[served]
    if unfit := sorted(given.keys() - form.options):
        option = unfit[0].replace("_", "-")
        raise click.UsageError(f"--{option} is not for {served}, which {bundle} answers")
    if given.get("top_k") == ALL and served in _COUNTED:
        raise click.UsageError(f"--top-k is a number for {served}")
    if given.get("top_k") == ALL:
        given["top_k"] = None
    source = chain(_arguments(texts), options.file_texts(file) if file is not None else ())
    if served is Task.TEXT_GENERATION and not as_json and len(texts) == 1 and file is None:
        completion.print_stream(model, texts[0], given)
    else:
        _print(form, form.ask(model, source, given), as_json=as_json)


def _implied(given: Given) -> Task | None:
    """Return the task that options ask of a classifier's graph."""
    if "candidate_labels" in given:
        return Task.ZERO_SHOT_CLASSIFICATION
    return Task.TEXT_RANKING if "query" in given else None


def _strings(value: Any) -> list[str]:
    return [item for item in value if isinstance(item, str)] if isinstance(value, tuple) else []


def _print(form: Form, answers: Iterator[Shown], *, as_json: bool) -> None:
    """Print answers some at a time, and before an error those that were given."""
    while True:
        chunk: list[Shown] = []
        try:
            chunk.extend(islice(answers, form.at_once))
        finally:
            if chunk and as_json:
                render.say("\n".join(render.to_json(line) for line, _ in chunk))
            elif chunk:
                _print_rows(form, [row for _, found in chunk for row in found])
        if len(chunk) < form.at_once:
            return


def _print_rows(form: Form, rows: list[Row]) -> None:
    if form.plain:
        for row in rows:
            render.say_piece("\t".join(row) + "\n")
        return
    columns = form.columns
    cut = columns[-1:] if columns[-1] in {"text", "question"} else ()
    render.table(columns, rows, right=("score",), cut=cut, header=False)


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
