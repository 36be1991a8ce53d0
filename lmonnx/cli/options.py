"""The arguments and options that several commands take, each written once."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import click

from lmonnx.errors import InputError
from lmonnx.measure.datasets import read_texts
from lmonnx.runtime.session import MOST_THREADS

Function = TypeVar("Function", bound=Callable[..., Any])
Decorator = Callable[[Function], Function]

PATH = click.Path(path_type=Path)

bundle = click.argument("bundle", type=PATH)
output = click.option(
    "-o", "--output", type=PATH, required=True, metavar="OUT", help="Folder of the new bundle."
)
force = click.option("--force", is_flag=True, help="Replace a bundle that is there.")
as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
data = click.option(
    "--data",
    type=PATH,
    metavar="FILE",
    help="Labelled texts: .tsv, .csv or .jsonl; .conll for entities, SQuAD's .json for answers, "
    "plain .txt for masks.",
)
text = click.option(
    "--text",
    default="0",
    show_default=True,
    metavar="COL",
    help="Column of the text: an index, or a name in the file's header. In .jsonl a key, "
    "by default text.",
)
label = click.option(
    "--label",
    default="1",
    show_default=True,
    metavar="COL",
    help="Column of the label; labels are the model's names or their indexes. In .jsonl a key, "
    "by default label.",
)
text_pair = click.option(
    "--text-pair", metavar="COL", help="Column of a second text, for models of pairs."
)
threads = click.option(
    "--threads",
    type=click.IntRange(1, MOST_THREADS),
    metavar="N",
    help="Threads to use, 512 at most; by default what the CPUs and the cgroup's quota allow.",
)
provider = click.option(
    "--provider",
    "providers",
    multiple=True,
    metavar="NAME",
    help="Execution provider of onnxruntime, the preferred first; by default the CPU's.",
)


def together(*decorators: Callable[[Any], Any]) -> Callable[[Function], Function]:
    """Return one decorator that adds all, in the order of the help text."""

    def decorate(function: Function) -> Function:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return decorate


columns = together(text, label, text_pair)
runtime = together(threads, provider)


def file_texts(file: str) -> Iterator[str]:
    """Yield the texts of a file, one a line; - is standard input.

    Raises:
        InputError: The file cannot be read, or a line is not UTF-8.
    """
    if file == "-":
        if sys.stdin is None:
            raise InputError("standard input is closed; give a file to --file, or texts")
        yield from read_texts(sys.stdin.buffer, "standard input")
        return
    try:
        with Path(file).open("rb") as lines:
            yield from read_texts(lines, file)
    except OSError as error:
        raise InputError(f"{file} cannot be read ({error.strerror}); check the path") from error
