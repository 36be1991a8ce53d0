"""The commands that say what a bundle is worth: eval, bench."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import click

from lmonnx.bundle.bundle import Bundle
from lmonnx.bundle.fields import encode
from lmonnx.cli import options, render
from lmonnx.cli.bars import bars
from lmonnx.cli.command import Command
from lmonnx.measure.accuracy import Columns, Evaluation, Scores, read_data
from lmonnx.measure.datasets import read_examples
from lmonnx.measure.likelihood import Likelihood, measure_likelihood
from lmonnx.measure.speed import Speed
from lmonnx.runtime.loading import load
from lmonnx.runtime.pipelines.text_generation import TextGenerator
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
_COUNT = click.IntRange(min=1)


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
  lmonnx eval smollm2-int4 book.txt --window 512
""",
)
@options.bundle
@click.argument("file", metavar="[DATA]", required=False, type=options.PATH)
@options.data
@options.columns
@click.option(
    "--window", type=click.IntRange(min=2), metavar="N", help="Decoders: tokens read together."
)
@click.option(
    "--stride", type=click.IntRange(min=1), metavar="N", help="Decoders: how far it moves."
)
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
    window: int | None,
    stride: int | None,
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
    gives the share that is filled in as it was. Decoders read a plain text and give its
    perplexity: every token is predicted from those before it in a window of --window tokens,
    which moves by --stride.
    """
    source = file or data
    if source is None or (file and data):
        raise click.UsageError("give one file of labelled texts, as DATA or with --data")
    from lmonnx.measure.accuracy import evaluate as measure

    model = load(bundle, providers=providers or (CPU,), threads=threads)
    if isinstance(model, TextGenerator):
        found = measure_likelihood(model, source, window=window, stride=stride)
        _print_fields(found, as_json=as_json)
        return
    if window is not None or stride is not None:
        raise click.UsageError("--window and --stride are for decoders")
    examples = read_data(source, model.bundle.manifest.task, Columns(text, label, text_pair))
    with bars() as progress:
        result = measure(model, examples, progress=progress)
    if as_json:
        render.say(render.to_json(encode(result)))
    elif isinstance(result, Evaluation):
        _print_evaluation(result)
    else:
        _print_scores(result)


def _print_fields(result: Likelihood, *, as_json: bool) -> None:
    if as_json:
        render.say(render.to_json(encode(result)))
        return
    render.figures(
        {
            "perplexity": f"{result.perplexity:.3f}",
            "bits a byte": f"{result.bits_per_byte:.3f}",
            "tokens": f"{result.tokens}, {result.predictions} of them predicted",
            "window": f"{result.window} tokens, moved by {result.stride}",
        }
    )


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
  lmonnx bench smollm2-int4 --prompt-tokens 512
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
@click.option("--prompt-tokens", type=_COUNT, metavar="N", help="Decoders: 128 unasked.")
@click.option("--new-tokens", type=click.IntRange(min=2), metavar="N", help="Decoders: 64 unasked.")
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
    **counts: int | None,
) -> None:
    """Time BUNDLE, strings in and answers out: load, latency, throughput, memory.

    Without --data or --file it answers 500 sentences that come with lmonnx. Plain texts are made
    to fit the task: a word is masked, a question put before, and zero-shot asked about five
    labels. Memory is this process's peak, Python and its packages included.

    Decoders are timed on prompts of their own: reading one, writing after it, and 1 to 16
    requests at once.
    """
    if data and file:
        raise click.UsageError("give --data or --file, not both")
    asked = {name: count for name, count in counts.items() if count is not None}
    if Bundle.open(bundle, verify=False).manifest.generation is not None:
        if data or file:
            raise click.UsageError("decoders are timed on prompts of their own: leave texts out")
        _bench_generation(bundle, rounds, threads, providers or (CPU,), asked, as_json=as_json)
        return
    if asked:
        raise click.UsageError("--prompt-tokens and --new-tokens are for decoders")
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


def _bench_generation(
    bundle: Path,
    rounds: int,
    threads: int | None,
    providers: tuple[str, ...],
    counts: dict[str, int],
    *,
    as_json: bool,
) -> None:
    from lmonnx.measure.generation_speed import bench_generation as measure

    with bars() as progress:
        speed = measure(
            bundle,
            rounds=rounds,
            threads=threads,
            providers=providers,
            progress=progress,
            **counts,  # type: ignore[arg-type]
        )
    if as_json:
        render.say(render.to_json(encode(speed)))
        return
    tokens = f"prompt of {speed.prompt_tokens}, {speed.new_tokens} new, {speed.threads} threads"
    inter = f"p50 {speed.inter_token_p50_ms:.2f} ms, p99 {speed.inter_token_p99_ms:.2f} ms"
    render.figures(
        {
            "tokens": tokens,
            "load": f"{speed.load_ms:.0f} ms",
            "time to first token": f"{speed.ttft_ms:.0f} ms",
            "prefill": f"{speed.prefill_tokens_per_s:.0f} tokens/s",
            "between tokens": inter,
            "decode": f"{speed.decode_tokens_per_s:.0f} tokens/s",
            **{
                f"{x.requests} at once": f"{x.tokens_per_s:.0f} tokens/s ({x.scaling:.2f} ×)"
                for x in speed.together
            },
            "peak memory": _memory(speed.peak_mib),
        }
    )


def _memory(peak: float | None) -> str:
    return "unknown here" if peak is None else f"{peak:.0f} MiB"


def _texts(data: Path | None, column: str, file: str | None) -> list[Text]:
    if data is not None:
        return [example.text for example in read_examples(data, text=column, label=None)]
    if file is not None:
        return list(options.file_texts(file))
    from lmonnx.measure.sentences import gate_sentences

    return list(gate_sentences())


def _print_speed(speed: Speed) -> None:
    render.figures(
        {
            "texts": f"{speed.texts} of {speed.tokens} tokens, {speed.threads} threads",
            "load": f"{speed.load_ms:.0f} ms",
            "latency p50": f"{speed.p50_ms:.2f} ms",
            "latency p95": f"{speed.p95_ms:.2f} ms",
            "latency p99": f"{speed.p99_ms:.2f} ms",
            "throughput": f"{speed.texts_per_s:.0f} texts/s, {speed.tokens_per_s:.0f} tokens/s",
            "peak memory": _memory(speed.peak_mib),
        }
    )
