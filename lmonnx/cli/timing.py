"""The command that times a bundle: bench."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from lmonnx.bundle.bundle import Bundle
from lmonnx.bundle.fields import encode
from lmonnx.cli import options, render
from lmonnx.cli.bars import bars
from lmonnx.cli.command import Command
from lmonnx.measure.datasets import read_examples
from lmonnx.measure.generation_speed import GenerationSpeed, bench_generation
from lmonnx.measure.rewriting_speed import Rate, RewritingSpeed, bench_rewriting
from lmonnx.measure.speed import Speed
from lmonnx.measure.speed import bench as measure
from lmonnx.runtime.session import CPU
from lmonnx.runtime.tokenizer import Text

_COUNT = click.IntRange(min=1)
_OF_DECODERS = ("prompt_tokens", "new_tokens")
_OF_ENCODER_DECODERS = ("new_tokens", "source_lang", "target_lang", "prefix")


@click.command(
    cls=Command,
    epilog="""\b
Examples:
  lmonnx bench sst2-int8
  lmonnx bench sst2-int8 --file reviews.txt --threads 2 --json
  lmonnx bench smollm2-int4 --prompt-tokens 512
  lmonnx bench opus-mt-de-en --file german.txt
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
@click.option(
    "--new-tokens",
    type=click.IntRange(min=2),
    metavar="N",
    help="Decoders: 64 unasked; encoder-decoders: what the model wants unasked.",
)
@click.option("--source-lang", metavar="CODE", help="Encoder-decoders: the texts' language.")
@click.option("--target-lang", metavar="CODE", help="Encoder-decoders: the answers' language.")
@click.option("--prefix", metavar="TEXT", help="Encoder-decoders: put this before every text.")
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
    **counts: Any,
) -> None:
    """Time BUNDLE, strings in and answers out: load, latency, throughput, memory.

    Without --data or --file it answers 500 sentences that come with lmonnx. Plain texts are made
    to fit the task: a word is masked, a question put before, and zero-shot asked about five
    labels. Memory is this process's peak, Python and its packages included.

    Decoders are timed on prompts of their own: reading one, writing after it, and 1 to 16
    requests at once. Translation and the like are timed on 1, 16 and 100 texts a call, greedily
    and with 4 beams.
    """
    if data and file:
        raise click.UsageError("give --data or --file, not both")
    asked = {name: count for name, count in counts.items() if count is not None}
    generation = Bundle.open(bundle, verify=False).manifest.generation
    common: dict[str, Any] = {
        "rounds": rounds,
        "threads": threads,
        "providers": providers or (CPU,),
    }
    result: Speed | GenerationSpeed | RewritingSpeed
    if generation is None:
        _refuse(asked, (), "for decoders and encoder-decoders")
        with bars() as progress:
            result = measure(bundle, _texts(data, text, file), progress=progress, **common)
    elif generation.seq2seq is None:
        if data or file:
            raise click.UsageError("decoders are timed on prompts of their own: leave texts out")
        _refuse(asked, _OF_DECODERS, "for encoder-decoders")
        with bars() as progress:
            result = bench_generation(bundle, progress=progress, **common, **asked)
    else:
        _refuse(asked, _OF_ENCODER_DECODERS, "for decoders")
        plain = [str(each) for each in _texts(data, text, file)] if data or file else []
        with bars() as progress:
            result = bench_rewriting(bundle, plain, progress=progress, **common, **asked)
    if as_json:
        render.say(render.to_json(encode(result)))
    else:
        render.figures(_shown(result))


def _refuse(asked: Mapping[str, Any], fitting: tuple[str, ...], whose: str) -> None:
    if unfit := [name for name in asked if name not in fitting]:
        raise click.UsageError(f"--{unfit[0].replace('_', '-')} is {whose}")


def _texts(data: Path | None, column: str, file: str | None) -> list[Text]:
    if data is not None:
        return [example.text for example in read_examples(data, text=column, label=None)]
    if file is not None:
        return list(options.file_texts(file))
    from lmonnx.measure.sentences import gate_sentences

    return list(gate_sentences())


def _shown(result: Speed | GenerationSpeed | RewritingSpeed) -> dict[str, str]:
    if isinstance(result, Speed):
        return _shown_speed(result)
    if isinstance(result, GenerationSpeed):
        return _shown_generation(result)
    return _shown_rewriting(result)


def _shown_generation(speed: GenerationSpeed) -> dict[str, str]:
    tokens = f"prompt of {speed.prompt_tokens}, {speed.new_tokens} new, {speed.threads} threads"
    inter = f"p50 {speed.inter_token_p50_ms:.2f} ms, p99 {speed.inter_token_p99_ms:.2f} ms"
    return {
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


def _shown_rewriting(speed: RewritingSpeed) -> dict[str, str]:
    new = "as many tokens as it wants" if speed.new_tokens is None else f"{speed.new_tokens} tokens"
    return {
        "answers": f"of {new}, {speed.threads} threads",
        "load": f"{speed.load_ms:.0f} ms",
        **{_rate_name(rate): _rate(rate) for rate in speed.rates},
        "peak memory": _memory(speed.peak_mib),
    }


def _rate_name(rate: Rate) -> str:
    texts = "1 text" if rate.texts == 1 else f"{rate.texts} texts"
    return f"{texts}, {'greedy' if rate.beams == 1 else f'{rate.beams} beams'}"


def _rate(rate: Rate) -> str:
    return f"{rate.texts_per_s:.1f} texts/s, {rate.tokens_per_s:.0f} tokens/s"


def _shown_speed(speed: Speed) -> dict[str, str]:
    return {
        "texts": f"{speed.texts} of {speed.tokens} tokens, {speed.threads} threads",
        "load": f"{speed.load_ms:.0f} ms",
        "latency p50": f"{speed.p50_ms:.2f} ms",
        "latency p95": f"{speed.p95_ms:.2f} ms",
        "latency p99": f"{speed.p99_ms:.2f} ms",
        "throughput": f"{speed.texts_per_s:.0f} texts/s, {speed.tokens_per_s:.0f} tokens/s",
        "peak memory": _memory(speed.peak_mib),
    }


def _memory(peak: float | None) -> str:
    return "unknown here" if peak is None else f"{peak:.0f} MiB"
