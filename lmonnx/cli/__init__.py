"""The command line: every command parses, calls one function and prints one result.

Modules, in the order data meets them: `command` (commands by name, --debug, errors → exit codes),
`options` (what several commands take), `export`, `optimize` and `quantize` with `made` and `lost`
(what they tell of a bundle), `verify`, `answer` (run) with `forms` (what differs by task),
`pairing` (texts beside answers), `completion` (decoders' options) and `rewriting`
(encoder-decoders'), `chat`, `score` (eval), `timing` (bench), `tune`, `show` (inspect, doctor),
`render` (results → standard output) and `bars` (progress → standard error).
"""

import click

from lmonnx import __version__
from lmonnx.cli.command import Commands, Place

__all__ = ["main"]

_COMMANDS = {
    "export": Place("lmonnx.cli.export", "export", "Write a checkpoint as a bundle."),
    "optimize": Place("lmonnx.cli.optimize", "optimize", "Fuse the graph of a bundle."),
    "quantize": Place("lmonnx.cli.quantize", "quantize", "Write int8 weights, if accuracy holds."),
    "shortlist": Place("lmonnx.cli.shortlist", "shortlist", "Rank only what a source may say."),
    "verify": Place("lmonnx.cli.verify", "verify", "Compare a bundle with a reference."),
    "run": Place("lmonnx.cli.answer", "run", "Answer texts."),
    "chat": Place("lmonnx.cli.chat", "chat", "Talk with a decoder."),
    "eval": Place("lmonnx.cli.score", "evaluate", "Score a bundle on labelled texts."),
    "bench": Place("lmonnx.cli.timing", "bench", "Time a bundle."),
    "tune": Place("lmonnx.cli.tune", "tune", "Find the fastest settings for this host."),
    "inspect": Place("lmonnx.cli.show", "inspect", "Show what is in a bundle."),
    "doctor": Place("lmonnx.cli.show", "doctor", "Show what this machine offers."),
}


@click.group(
    name="lmonnx",
    cls=Commands,
    places=_COMMANDS,
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
