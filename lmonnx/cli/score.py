"""The command that says what a bundle is worth: eval."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import click

from lmonnx.bundle.fields import encode
from lmonnx.cli import options, render, rewriting
from lmonnx.cli.bars import bars
from lmonnx.cli.command import Command
from lmonnx.measure.accuracy import Columns, Evaluation, Scores, read_data
from lmonnx.measure.accuracy import evaluate as measure
from lmonnx.measure.likelihood import Likelihood, measure_likelihood
from lmonnx.measure.references import read_rewritings
from lmonnx.measure.written import MEASURES, TITLES, Figure, TextScores, judge_texts
from lmonnx.runtime.loading import load
from lmonnx.runtime.pipelines.base import Pipeline
from lmonnx.runtime.pipelines.text_generation import TextGenerator
from lmonnx.runtime.pipelines.text_to_text import TextToText
from lmonnx.runtime.session import CPU

_NAMES = {
    "precision": "precision",
    "recall": "recall",
    "f1": "F1",
    "exact_match": "exact match",
    "accuracy": "accuracy",
    "pearson": "Pearson",
    "spearman": "Spearman",
}
_MATRIX_LABELS = 12  # more do not fit beside each other
_COUNT = click.IntRange(min=1)
_OF_DECODERS = frozenset({"window", "stride"})
_CALLED = frozenset({"source_lang", "target_lang", "prefix", "split"})
_DECODED = frozenset({"num_beams", "length_penalty", "max_new_tokens"})

_windows = options.together(
    click.option(
        "--window", type=click.IntRange(min=2), metavar="N", help="Decoders: tokens read together."
    ),
    click.option(
        "--stride", type=click.IntRange(min=1), metavar="N", help="Decoders: how far it moves."
    ),
)
_written = options.together(
    click.option(
        "--references",
        type=options.PATH,
        metavar="FILE",
        help="Translation and the like: line n is the reference of DATA's line n.",
    ),
    click.option(
        "--metric",
        multiple=True,
        type=click.Choice(tuple(MEASURES)),
        help="Translation and the like: count this instead of what is usual for the task.",
    ),
    click.option("--num-beams", type=_COUNT, metavar="N", help="Beam search with N beams."),
    click.option("--length-penalty", type=float, metavar="P", help="Of beams; above 0: longer."),
    click.option("--max-new-tokens", type=_COUNT, metavar="N", help="Tokens of an answer at most."),
    rewriting.asked,
)


@click.command(
    name="eval",
    cls=Command,
    epilog="""\b
Examples:
  lmonnx eval sst2-int8 dev.tsv
  lmonnx eval sst2-int8 reviews.csv --text review --label sentiment --json
  lmonnx eval ner-int8 dev.conll
  lmonnx eval embedder-int8 sts.csv --text-pair 1 --label 2
  lmonnx eval smollm2-int4 book.txt --window 512
  lmonnx eval opus-mt-de-en test.de --references test.en --num-beams 4
  lmonnx eval bart-cnn articles.jsonl --metric rougeL
""",
)
@options.bundle
@click.argument("file", metavar="[DATA]", required=False, type=options.PATH)
@options.data
@options.columns
@_windows
@_written
@options.as_json
@options.runtime
def evaluate(
    *,
    bundle: Path,
    file: Path | None,
    data: Path | None,
    text: str,
    label: str,
    text_pair: str | None,
    as_json: bool,
    threads: int | None,
    providers: tuple[str, ...],
    **asked: Any,
) -> None:
    """Compare BUNDLE's answers with the labels of DATA.

    Sequence classifiers read .tsv, .csv or .jsonl and give accuracy with its 95% interval,
    macro-F1 and the confusion matrix; for a regression the correlations. Columns given by index
    mean that the file has no header. Ranking and embeddings read two texts (--text-pair) and a
    score, and give correlations.

    Token classifiers read CoNLL (a token first and its tag last on a line, a blank line after a
    sentence) and give precision, recall and F1 of entities. Question answering reads SQuAD JSON
    and gives exact match and F1. Fill-mask reads texts, one a line, masks a word of each and
    gives the share that is filled in as it was. Decoders read a plain text and give its
    perplexity: every token is predicted from those before it in a window of --window tokens,
    which moves by --stride.

    Translation, summarization and text-to-text read a text and its reference a line, tabs between
    (.csv and .jsonl too, the latter in the keys of data sets on the hub), or two files. They give
    BLEU, chrF and TER, ROUGE, or exact match, character error rate and chrF, each with the
    signature that states how it was counted.
    """
    source = file or data
    if source is None or (file and data):
        raise click.UsageError("give one file of labelled texts, as DATA or with --data")
    given = {name: value for name, value in asked.items() if value not in (None, ())}
    model = load(bundle, providers=providers or (CPU,), threads=threads)
    kind = next(kind for kind in _KINDS if isinstance(model, kind.model))
    if unfit := sorted(given.keys() - kind.options):
        option, of = unfit[0], "decoders" if unfit[0] in _OF_DECODERS else "encoder-decoders"
        raise click.UsageError(f"--{option.replace('_', '-')} is for {of}")
    result = kind.judge(model, source, Columns(text, label, text_pair), given)
    if as_json:
        render.say(render.to_json(encode(result)))
    else:
        kind.show(result)


Given = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class _Kind:
    """How a kind of model is judged: the options it takes, what it is asked, what is printed."""

    model: type[Any]
    options: frozenset[str]
    judge: Callable[[Any, Path, Columns, Given], Any]
    show: Callable[[Any], None]


def _predict(model: TextGenerator, path: Path, _: Columns, given: Given) -> Likelihood:
    return measure_likelihood(model, path, **given)


def _write(model: TextToText, path: Path, columns: Columns, given: Given) -> TextScores:
    called = {name: given[name] for name in _CALLED if name in given}
    languages = {name: given.get(name) for name in ("source_lang", "target_lang")}
    examples = read_rewritings(
        path, text=columns.text, label=columns.label, references=given.get("references"),
        **languages,
    )  # fmt: skip
    with bars() as progress:
        return judge_texts(
            model, examples, progress,
            metrics=given.get("metric", ()), params=rewriting.params_for(model, given), **called,
        ).evaluation()  # fmt: skip


def _answer(model: Pipeline[Any], path: Path, columns: Columns, _: Given) -> Scores:
    examples = read_data(path, model.bundle.manifest.task, columns)
    with bars() as progress:
        return measure(model, examples, progress=progress)


def _show_likelihood(result: Likelihood) -> None:
    render.figures(
        {
            "perplexity": f"{result.perplexity:.3f}",
            "bits a byte": f"{result.bits_per_byte:.3f}",
            "tokens": f"{result.tokens}, {result.predictions} of them predicted",
            "window": f"{result.window} tokens, moved by {result.stride}",
        }
    )


def _show_written(result: TextScores) -> None:
    render.figures({"texts": str(result.n)})
    rows = [(TITLES[name], *_cells(each)) for name, each in result.metrics.items()]
    render.table(("", "", "95% interval", "counted by"), rows, header=False)


def _cells(figure: Figure) -> tuple[str, ...]:
    digits = 2 if abs(figure.value) > 1 else 4
    interval = (
        ""
        if figure.interval is None
        else " to ".join(f"{end:.{digits}f}" for end in figure.interval)
    )
    return f"{figure.value:.{digits}f}", interval, figure.signature or ""


def _show_scores(result: Scores) -> None:
    if isinstance(result, Evaluation):
        _print_evaluation(result)
    else:
        _print_scores(result)


def _print_scores(result: Scores) -> None:
    """Print the figures of a task in the order of its fields."""
    names = [field.name for field in fields(result)]
    values = {name: getattr(result, name) for name in names if name != "n"}
    shown = {_NAMES[name]: _correlation(value) for name, value in values.items()}
    render.figures({"examples": str(result.n), **shown})


def _print_evaluation(result: Evaluation) -> None:
    shown = {"texts": str(result.n)}
    if result.accuracy is not None and result.confidence_interval is not None:
        low, high = result.confidence_interval
        shown["accuracy"] = f"{result.accuracy:.4f} (95% interval {low:.4f} to {high:.4f})"
        shown["macro-F1"] = f"{result.macro_f1:.4f}"
    else:
        shown["Pearson"] = _correlation(result.pearson)
        shown["Spearman"] = _correlation(result.spearman)
    render.figures(shown)
    if result.confusion_matrix is None:
        return
    if len(result.labels) > _MATRIX_LABELS:
        render.heading(f"confusion matrix of {len(result.labels)} labels: see --json")
        return
    render.heading("confusion matrix: a row is the true label, a column the given one")
    rows = zip(result.labels, result.confusion_matrix, strict=True)
    cells = [(label, *(str(count) for count in counts)) for label, counts in rows]
    render.table(("", *result.labels), cells, right=result.labels)


def _correlation(value: float | None) -> str:
    return "undefined: the labels or the answers are all equal" if value is None else f"{value:.4f}"


_KINDS = (
    _Kind(TextGenerator, _OF_DECODERS, _predict, _show_likelihood),
    _Kind(TextToText, _CALLED | _DECODED | {"references", "metric"}, _write, _show_written),
    _Kind(Pipeline, frozenset(), _answer, _show_scores),
)
