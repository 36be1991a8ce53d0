"""What `run` and `chat` do with a decoder: the options of decoding, prompts → completions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from itertools import islice
from pathlib import Path
from typing import Any

import click

from lmonnx.bundle.fields import encode
from lmonnx.cli import options, render
from lmonnx.errors import InputError
from lmonnx.measure.likelihood import read_text
from lmonnx.runtime.generate.params import SamplingParams
from lmonnx.runtime.pipelines.text_generation import TextGenerator

Given = Mapping[str, Any]

_AT_ONCE = 64  # prompts that are given to the engine together
_FILE_MIB = 1  # of a schema or a grammar
_COUNT = click.IntRange(min=1)
# How an option is spelled where SamplingParams has another name for it.
_NAMES = {"num_samples": "n"}

sampling = options.together(
    click.option("--max-new-tokens", type=_COUNT, metavar="N", help="Tokens at most; 256 unasked."),
    click.option("--min-new-tokens", type=click.IntRange(min=0), metavar="N", help="At least."),
    click.option(
        "--temperature",
        type=float,
        metavar="T",
        help="Above 0 tokens are drawn by chance; 0, the default, takes the likeliest.",
    ),
    click.option("--top-p", type=float, metavar="P", help="Draw from the likeliest that reach P."),
    click.option("--min-p", type=float, metavar="P", help="Leave out below P of the likeliest."),
    click.option("--typical-p", type=float, metavar="P", help="Draw from the most typical."),
    click.option("--seed", type=click.IntRange(min=0), metavar="S", help="Of chance."),
    click.option("--repetition-penalty", type=float, metavar="R", help="Above 1: repeat less."),
    click.option("--presence-penalty", type=float, metavar="R", help="As OpenAI has it."),
    click.option("--frequency-penalty", type=float, metavar="R", help="As OpenAI has it."),
    click.option(
        "--no-repeat-ngram-size", type=click.IntRange(min=0), metavar="N", help="None twice."
    ),
    click.option("--stop", multiple=True, metavar="TEXT", help="End before this text."),
    click.option(
        "--schema", metavar="JSON|FILE", help="The answer is JSON of this schema, or a file of it."
    ),
    click.option("--regex", metavar="R", help="The answer matches this expression."),
    click.option("--grammar", metavar="FILE", help="The answer is of this Lark grammar."),
    click.option(
        "--prompt-lookup", type=click.IntRange(min=0), metavar="N",
        help="Guess up to N tokens from the prompt: sooner where it copies. The same answer, but "
        "for near-ties of quantized bundles.",
    ),
)  # fmt: skip
several = options.together(
    click.option("--num-beams", type=_COUNT, metavar="N", help="Beam search with N beams."),
    click.option("--length-penalty", type=float, metavar="P", help="Of beams; above 0: longer."),
    click.option(
        "--num-samples", type=_COUNT, metavar="N", help="Completions of each prompt, or best beams."
    ),
    click.option(
        "--logprobs", type=click.IntRange(min=0), metavar="K",
        help="With --json: log-probabilities of each token, and of the K likeliest.",
    ),
    click.option("--chat", is_flag=True, default=None, help="A prompt is a user's message."),
    click.option("--system", metavar="TEXT", help="The system message before it, with --chat."),
)  # fmt: skip
capacity = options.together(
    click.option(
        "--slots", type=_COUNT, metavar="N", help="Sequences that run at once; a beam is one."
    ),
    click.option(
        "--context-length", type=_COUNT, metavar="N",
        help="The most tokens of prompt and completion; of encoder-decoders, of the answer.",
    ),
)  # fmt: skip
_OF_CHANCE = ("seed", "top_k", "top_p", "min_p", "typical_p")
_PARAMS = frozenset(field.name for field in fields(SamplingParams)) | _NAMES.keys()
OPTIONS = _PARAMS | {"chat", "system"}


def sampling_params(given: Given) -> SamplingParams:
    """Return the options of decoding that were given.

    Raises:
        InputError: One is wrong, or its file cannot be read.
    """
    asked = asked_params(given)
    check_chance(asked)
    if "schema" in asked and not asked["schema"].lstrip().startswith(("{", "true", "false")):
        asked["schema"] = _file(asked["schema"], "--schema")
    if "grammar" in asked:
        asked["grammar"] = _file(asked["grammar"], "--grammar")
    return SamplingParams(**asked)


def asked_params(given: Given) -> dict[str, Any]:
    """Return the options that SamplingParams has, by its names."""
    return {_NAMES.get(name, name): value for name, value in given.items() if name in _PARAMS}


def check_chance(asked: Given) -> None:
    """Refuse options of chance where nothing is left to it.

    Raises:
        UsageError: There is one without a temperature.
    """
    idle = [name for name in _OF_CHANCE if asked.get(name) is not None]
    if idle and not asked.get("temperature"):
        option = idle[0].replace("_", "-")
        raise click.UsageError(f"--{option} is of chance: give --temperature above 0 with it")


def _file(name: str, option: str) -> str:
    try:
        return read_text(Path(name), most_mib=_FILE_MIB)
    except InputError as error:
        raise InputError(f"{option}: {error}") from error


def complete(
    model: TextGenerator, texts: Iterator[str], given: Given
) -> Iterator[tuple[Any, list[tuple[str, ...]]]]:
    """Yield each completion as a line of JSON and a row of cells, some prompts at a time."""
    params = sampling_params(given)
    while prompts := list(islice(texts, _AT_ONCE)):
        ids = [_prompt(model, text, given) for text in prompts]
        answers = iter(model(ids, params))
        for text in prompts:
            for found in islice(answers, params.n):
                yield encode(found), [(found.finish_reason, text, found.text)]


def print_stream(model: TextGenerator, text: str, given: Given) -> None:
    """Print one completion as it comes."""
    params = sampling_params(given)
    if params.n > 1 or params.num_beams > 1:
        for found in model([_prompt(model, text, given)], params):
            render.say(found.text)
        return
    for chunk in model.stream(_prompt(model, text, given), params):
        render.say_piece(chunk.text)
    render.say("")


def _prompt(model: TextGenerator, text: str, given: Given) -> str | Sequence[int]:
    system = given.get("system")
    if not given.get("chat"):
        if system is not None:
            raise click.UsageError("--system is for --chat")
        return text
    before = [] if system is None else [{"role": "system", "content": system}]
    return model.chat_prompt([*before, {"role": "user", "content": text}])
