"""The command that talks: chat."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter
from typing import Any

import click

from lmonnx.bundle.manifest import Task
from lmonnx.cli import completion, options, render
from lmonnx.cli.command import Command
from lmonnx.errors import InputError
from lmonnx.runtime.generate.params import SamplingParams
from lmonnx.runtime.loading import load
from lmonnx.runtime.pipelines.text_generation import TextGenerator
from lmonnx.runtime.session import CPU

_HELP = "/reset forgets the conversation, /exit or the end of input ends it, Ctrl-C an answer"


@click.command(
    cls=Command,
    epilog="""\b
Examples:
  lmonnx chat smollm2-int4
  lmonnx chat smollm2-int4 --system "You answer in one sentence." --temperature 0.7
  echo "What is the capital of France?" | lmonnx chat smollm2-int4
""",
)
@options.bundle
@click.option("--system", metavar="TEXT", help="The system message.")
@click.option("--top-k", type=click.IntRange(min=0), metavar="K", help="Draw from the K likeliest.")
@completion.sampling
@options.runtime
def chat(
    *,
    bundle: Path,
    system: str | None,
    threads: int | None,
    providers: tuple[str, ...],
    **asked: Any,  # the options of decoding
) -> None:
    """Talk with BUNDLE in this terminal: a line is a message, answers are printed as they come.

    The conversation is kept, and only what is new of it is computed. Figures go to standard
    error; /reset forgets, /exit ends, Ctrl-C ends an answer.
    """
    params = completion.sampling_params(
        {name: value for name, value in asked.items() if value not in (None, ())}
    )
    model = load(bundle, providers=providers or (CPU,), threads=threads)
    if not isinstance(model, TextGenerator):
        task = model.bundle.manifest.task
        raise InputError(f"{bundle} is for {task}, not for {Task.TEXT_GENERATION}; use `run`")
    with model:
        Conversation(model, params, system).hold(_lines())


class Conversation:
    """The messages so far, and the model that answers them."""

    def __init__(self, model: TextGenerator, params: SamplingParams, system: str | None) -> None:
        self._model = model
        self._params = params
        self._start = [] if system is None else [{"role": "system", "content": system}]
        self.messages = list(self._start)
        model.chat_prompt([*self._start, {"role": "user", "content": ""}])  # it has a template

    def hold(self, lines: Iterator[str]) -> None:
        """Answer line after line; what cannot be answered is said, and forgotten."""
        for line in lines:
            if line == "/exit":
                return
            if line == "/reset":
                self.messages = list(self._start)
            elif line.startswith("/"):
                click.echo(_HELP, err=True)
            elif line:
                self._answer_or_say(line)

    def _answer_or_say(self, line: str) -> None:
        kept = len(self.messages)
        self.messages.append({"role": "user", "content": line})
        try:
            self.messages.append({"role": "assistant", "content": self._answer()})
        except InputError as error:
            del self.messages[kept:]
            click.echo(f"error: {render.printable(str(error))}; /reset starts anew", err=True)

    def _answer(self) -> str:
        prompt = self._model.chat_prompt(self.messages)
        pieces, count, start, first = [], 0, perf_counter(), 0.0
        stream = self._model.stream(prompt, self._params)
        try:
            for chunk in stream:
                first = first or perf_counter()
                count += len(chunk.token_ids)
                pieces.append(chunk.text)
                render.say_piece(chunk.text)
        except KeyboardInterrupt:
            stream.close()  # type: ignore[attr-defined]  # a generator
        render.say("")
        spent = perf_counter() - first
        rate = f", {(count - 1) / spent:.0f} tokens/s" if count > 1 and spent > 0 else ""
        click.echo(
            f"[{len(prompt)} + {count} tokens, first after {(first - start) * 1000:.0f} ms{rate}]",
            err=True,
        )
        return "".join(pieces)


def _lines() -> Iterator[str]:
    """Yield what is typed, or piped, a line at a time; the end of input ends it."""
    if sys.stdin is None:
        raise InputError("standard input is closed; chat reads messages from it")
    typed = sys.stdin.isatty()
    if typed:
        _edit_lines()
        click.echo(_HELP, err=True)
    while True:
        try:
            line = input("> ") if typed else sys.stdin.readline()
        except EOFError:
            return
        except UnicodeDecodeError as error:
            raise InputError("standard input is no UTF-8 text") from error
        except KeyboardInterrupt:
            click.echo("", err=True)
            continue
        if not typed and not line:
            return
        yield line.strip()


def _edit_lines() -> None:
    """Let a typed line be edited, where Python has readline."""
    try:
        import readline  # noqa: F401
    except ImportError:  # Windows
        return
