"""The commands that say what a bundle is worth: eval, bench."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import click

from lmonnx.bundle.fields import encode
from lmonnx.cli import options, render
from lmonnx.cli.bars import bars
from lmonnx.cli.command import Command
from lmonnx.measure.accuracy import Columns, Evaluation, Scores, read_data
from lmonnx.measure.datasets import read_examples
from lmonnx.measure.speed import Speed
from lmonnx.runtime.loading import load
from lmonnx.runtime.session import CPU
from lmonnx.runtime.tokenizer import Text

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


@click.command(
    name="eval",
    cls=Command,
    short_help="Score a bundle on labelled texts.",
    epilog="""\b
Examples:
  lmonnx eval sst2-int8 dev.tsv
  lmonnx eval sst2-int8 reviews.csv --text review --label sentiment --json
  lmonnx eval ner-int8 dev.conll
  lmonnx eval embedder-int8 sts.csv --text-pair 1 --label 2
""",
)
@options.bundle
@click.argument("file", metavar="[DATA]", required=False, type=options.PATH)
@options.data
@options.columns
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
) -> None:
    """Compare BUNDLE's answers with the labels of DATA.

    Sequence classifiers read .tsv, .csv or .jsonl and give accuracy with its 95% interval,
    macro-F1 and the confusion matrix; for a regression the correlations. Columns given by index
    mean that the file has no header. Ranking and embeddings read two texts (--text-pair) and a
    score, and give correlations.

    Token classifiers read CoNLL (a token first and its tag last on a line, a blank line after a
    sentence) and give precision, recall and F1 of entities. Question answering reads SQuAD JSON
    and gives exact match and F1. Fill-mask reads texts, one a line, masks a word of each and
    gives the share that is filled in as it was.
    """
    source = file or data
    if source is None or (file and data):
        raise click.UsageError("give one file of labelled texts, as DATA or with --data")
    from lmonnx.measure.accuracy import evaluate as measure

    model = load(bundle, providers=providers or (CPU,), threads=threads)
    examples = read_data(source, model.bundle.manifest.task, Columns(text, label, text_pair))
    with bars() as progress:
        result = measure(model, examples, progress=progress)
    if as_json:
        render.say(render.to_json(encode(result)))
    elif isinstance(result, Evaluation):
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


@click.command(
    cls=Command,
    short_help="Time a bundle.",
    epilog="""\b
Examples:
  lmonnx bench sst2-int8
  lmonnx bench sst2-int8 --file reviews.txt --threads 2 --json
""",
)
@options.bundle
@options.data
@options.text
@click.option("--file", metavar="TEXTS", help="Texts, one a line; - is standard input.")
@click.option(
    "--rounds",
    type=click.IntRange(min=1),
    default=5,
    show_default=True,
    metavar="N",
    help="How often to answer all texts; the fastest counts.",
)
@options.as_json
@options.runtime
def bench(
    *,
    bundle: Path,
    data: Path | None,
    text: str,
    file: str | None,
    rounds: int,
    as_json: bool,
    threads: int | None,
    providers: tuple[str, ...],
) -> None:
    """Time BUNDLE, strings in and answers out: load, latency, throughput, memory.

    Without --data or --file it answers 500 sentences that come with lmonnx. Plain texts are made
    to fit the task: a word is masked, a question put before, and zero-shot asked about five
    labels. Memory is this process's peak, Python and its packages included.
    """
    if data and file:
        raise click.UsageError("give --data or --file, not both")
    from lmonnx.measure.speed import bench as measure

    texts = _texts(data, text, file)
    with bars() as progress:
        speed = measure(
            bundle,
            texts,
            rounds=rounds,
            threads=threads,
            providers=providers or (CPU,),
            progress=progress,
        )
    if as_json:
        render.say(render.to_json(encode(speed)))
    else:
        _print_speed(speed)


def _texts(data: Path | None, column: str, file: str | None) -> list[Text]:
    if data is not None:
        return [example.text for example in read_examples(data, text=column, label=None)]
    if file is not None:
        return list(options.file_texts(file))
    from lmonnx.measure.sentences import gate_sentences

    return list(gate_sentences())


def _print_speed(speed: Speed) -> None:
    peak = "unknown here" if speed.peak_mib is None else f"{speed.peak_mib:.0f} MiB"
    render.figures(
        {
            "texts": f"{speed.texts} of {speed.tokens} tokens, {speed.threads} threads",
            "load": f"{speed.load_ms:.0f} ms",
            "latency p50": f"{speed.p50_ms:.2f} ms",
            "latency p95": f"{speed.p95_ms:.2f} ms",
            "latency p99": f"{speed.p99_ms:.2f} ms",
            "throughput": f"{speed.texts_per_s:.0f} texts/s, {speed.tokens_per_s:.0f} tokens/s",
            "peak memory": peak,
        }
    )
