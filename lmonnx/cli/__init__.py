"""The command line: every command parses, calls one function and prints one result.

Modules, in the order data meets them: `command` (--debug, errors → exit codes), `options` (what
several commands take), `compile` (export, optimize, quantize), `verify`, `answer` (run) with
`forms` (what differs by task), `pairing` (texts beside answers), `completion` (decoders' options)
and `rewriting` (encoder-decoders'), `chat`, `score` (eval), `timing` (bench), `tune`, `show`
(inspect, doctor), `render` (results → standard output) and `bars` (progress → standard error).
"""

import click

from lmonnx import __version__
from lmonnx.cli.answer import run
from lmonnx.cli.chat import chat
from lmonnx.cli.command import Commands
from lmonnx.cli.compile import export, optimize, quantize
from lmonnx.cli.score import evaluate
from lmonnx.cli.show import doctor, inspect
from lmonnx.cli.timing import bench
from lmonnx.cli.tune import tune
from lmonnx.cli.verify import verify

__all__ = ["main"]


@click.group(
    name="lmonnx",
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="""\b
Examples:
  lmonnx export distilbert/distilbert-base-uncased-finetuned-sst-2-english -o sst2
  lmonnx optimize sst2 -o sst2-opt
  lmonnx quantize sst2-opt -o sst2-int8
  lmonnx run sst2-int8 "a gorgeous film"

\b
Exit codes: 0 done, 1 error, 2 wrong usage, 3 the accuracy gate or parity was missed.
""",
)
@click.version_option(__version__, prog_name="lmonnx")
def main() -> None:
    """Export, optimize, quantize and run language models on ONNX Runtime, without PyTorch."""


_COMMANDS = (
    export, optimize, quantize, verify, run, chat, evaluate, bench, tune, inspect, doctor,
)  # fmt: skip
for _command in _COMMANDS:
    main.add_command(_command)
