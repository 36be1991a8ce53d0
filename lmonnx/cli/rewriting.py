"""What `run` does with an encoder-decoder: languages, prefixes, splitting; texts → texts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import click

from lmonnx.bundle.manifest import Task
from lmonnx.bundle.settings import unmet
from lmonnx.cli import completion, options, render
from lmonnx.cli.pairing import beside
from lmonnx.errors import InputError, UnsupportedError
from lmonnx.runtime.generate.params import SamplingParams
from lmonnx.runtime.generate.request import Completion
from lmonnx.runtime.pipelines import REWRITERS
from lmonnx.runtime.pipelines.default_params import default_params
from lmonnx.runtime.pipelines.languages import task_names
from lmonnx.runtime.pipelines.source_parts import Refused, Split
from lmonnx.runtime.pipelines.text_to_text import TextToText

Given = Mapping[str, Any]
Row = tuple[str, ...]

# The name of an answer's text, as in transformers' pipelines.
_KEYS: Mapping[Task, str] = {
    Task.TRANSLATION: "translation_text",
    Task.SUMMARIZATION: "summary_text",
    Task.TEXT_TO_TEXT: "generated_text",
}
_OF_CALL = ("source_lang", "target_lang", "prefix", "split")
# What needs the text of a token as it comes, a prompt, or a conversation.
_OF_DECODERS = frozenset(
    "stop schema regex grammar prompt_lookup prompt_logprobs logprobs chat system".split()
)
OPTIONS = (completion.OPTIONS - _OF_DECODERS) | set(_OF_CALL)

asked = options.together(
    click.option("--source-lang", metavar="CODE", help="The texts' language, of several."),
    click.option("--target-lang", metavar="CODE", help="The language to translate into."),
    click.option("--prefix", metavar="TEXT", help="Put this before every text, for T5."),
    click.option(
        "--split",
        type=click.Choice([rule.value for rule in Split]),
        help="How a text is read by translation and the like: cut where it is too long (auto), "
        "always by sentences, never (none), or only its beginning (truncate).",
    ),
)


def params_for(model: TextToText, given: Given) -> SamplingParams:
    """Return the checkpoint's params with what was given in their place.

    Who asks for chance gets one beam, who asks for beams no chance, unless both are asked for.
    Fewer beams than the checkpoint wants answers have so many answers.

    Raises:
        InputError: An option is wrong.
        UnsupportedError: The checkpoint asks for what is not built, whatever was given.
    """
    wanted = completion.asked_params(given)
    codes = given.get("source_lang"), given.get("target_lang")
    tasks = task_names(model.generation, model.PREFIX, *codes)
    if (setting := unmet(model.generation, wanted, tasks)) is not None:
        way = (
            "give --temperature 0 for beams, or one above 0 for chance"
            if setting.startswith("do_sample")
            else "to answer without it, set it to null in generation_config.json (in config.json "
            "where task_specific_params state it) and export again"
        )
        raise UnsupportedError(f"the checkpoint asks for {setting}, which is not built; {way}")
    if wanted.get("temperature"):
        wanted.setdefault("num_beams", 1)
    elif wanted.get("num_beams", 1) > 1:
        wanted.setdefault("temperature", 0.0)
    own = default_params(model.generation, context=model.context, tasks=tasks)
    if "max_new_tokens" in wanted:  # a least length above the most is the most
        wanted.setdefault("min_new_tokens", min(own.min_new_tokens, wanted["max_new_tokens"]))
    completion.check_chance({"temperature": own.temperature, **wanted})
    if not wanted.get("temperature", own.temperature):
        wanted.setdefault("n", min(own.n, wanted.get("num_beams", own.num_beams)))
    return replace(own, **wanted)


def rewrite(
    model: TextToText, texts: Iterator[str], given: Given
) -> Iterator[tuple[Any, list[Row]]]:
    """Yield each text's answers as a line of JSON and as rows of cells.

    Of one answer a text the JSON is an object and the row its text, else a list and each with its
    score. An answer is one line where its text is. A text that the model cannot read has an object
    with `error`, and an empty line beside a message on standard error.

    Raises:
        InputError: There were such texts; all others are answered first.
    """
    params = params_for(model, given)
    n = params.n
    called = {name: given[name] for name in _OF_CALL if name in given}
    key = next(_KEYS[task] for task, kind in REWRITERS.items() if type(model) is kind)
    wrong = 0
    for text, found in beside(texts, lambda read: model.attempts(read, params, **called)):
        if isinstance(found, Refused):
            wrong += 1
            yield _refused(found, n)
            continue
        objects = [_object(key, answer) for answer in found]
        shown = [_shown(answer.text, text) for answer in found]
        if n == 1:
            yield objects[0], [(shown[0],)]
        else:
            scores = ["" if answer.score is None else f"{answer.score:.4f}" for answer in found]
            yield objects, list(zip(scores, shown, strict=True))
    if wrong:
        raise InputError(f"{wrong} of the texts {'has' if wrong == 1 else 'have'} no answer")


def _refused(found: Refused, n: int) -> tuple[Any, list[Row]]:
    """Say what is wrong with a text, whose number counts from 1 as lines do."""
    why = f"text {found.row + 1} {found.why}"
    click.echo(f"error: {why}", err=True)
    return {"error": why}, [("",) if n == 1 else ("", "")] * n


def _object(key: str, answer: Completion) -> dict[str, Any]:
    return {key: answer.text, "score": answer.score, "finish_reason": answer.finish_reason}


def _shown(answer: str, text: str) -> str:
    return answer if "\n" in text else render.printable(answer)
