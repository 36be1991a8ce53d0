"""What every command shares: --debug, and errors → one line and an exit code."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import click

from lmonnx.cli.render import printable
from lmonnx.errors import InputError, LmonnxError, UnsupportedError

INTERRUPTED, CLOSED_PIPE = 130, 141  # 128 + SIGINT and SIGPIPE, as shells count them

_DEBUG = "lmonnx.debug"
_EXTRA = ("onnx", "ml_dtypes")  # of the export extra, what every stage needs


class Command(click.Command):
    """A command that also takes --debug."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params.append(_debug_option())


@dataclass(frozen=True, slots=True)
class Place:
    """Where a command is, and what the list of commands says of it."""

    module: str
    name: str
    short_help: str


class Commands(click.Group):
    """A group whose commands' errors end in one line on standard error and an exit code.

    A command is imported when it is asked for: help and version need nothing but click.
    """

    def __init__(self, *args: Any, places: Mapping[str, Place], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params.append(_debug_option())
        self._places = places

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order of the pipeline, not of the alphabet."""
        return list(self._places)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command, None where there is none of that name.

        Raises:
            UnsupportedError: There is no onnxruntime.
        """
        if cmd_name not in self._places:
            return None
        place = self._places[cmd_name]
        try:
            from lmonnx import load  # noqa: F401  # what it says where onnxruntime is missing
        except ImportError as error:
            raise UnsupportedError(str(error)) from error
        command: click.Command = getattr(import_module(place.module), place.name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, place.short_help) for name, place in self._places.items()])

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run the group; what --help and --version cannot write is one line too."""
        try:
            if sys.stdout is None:
                raise InputError("standard output is closed; send it to a file, or to /dev/null")
            return super().main(*args, **kwargs)
        except (OSError, InputError) as error:  # before any command is invoked
            _report(error, debug=False)
            sys.exit(_exit_code(error))

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; an error exits with its code after one line, or with --debug more."""
        try:
            return super().invoke(ctx)
        except (click.exceptions.Exit, click.ClickException, click.Abort):
            raise
        except BaseException as error:
            code = _exit_code(error)
            if code is None:
                raise
            _report(error, debug=ctx.meta.get(_DEBUG, False))
            ctx.exit(code)


def _report(error: BaseException, *, debug: bool) -> None:
    if line := _explained(error):
        if debug:
            traceback.print_exc()
        click.echo(f"error: {printable(line)}", err=True)
    if isinstance(error, OSError):
        _discard_output()


def require_extra(command: str) -> None:
    """Refuse a command of the compiler where its packages are missing.

    Raises:
        UnsupportedError: One is missing; the message has the pip command that brings it.
    """
    if missing := [package for package in _EXTRA if find_spec(package) is None]:
        raise UnsupportedError(
            f"lmonnx {command} needs {missing[0]}: pip install 'lmonnx[export,cpu]'"
        )


def _debug_option() -> click.Option:
    def remember(ctx: click.Context, _: click.Parameter, value: bool) -> None:  # noqa: FBT001
        ctx.meta[_DEBUG] = value or ctx.meta.get(_DEBUG, False)  # one `meta` for all contexts

    return click.Option(
        ["--debug"],
        is_flag=True,
        expose_value=False,
        callback=remember,
        help="Show where an error comes from.",
    )


def _exit_code(error: BaseException) -> int | None:
    if isinstance(error, LmonnxError):
        return error.exit_code
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    if isinstance(error, BrokenPipeError):
        return CLOSED_PIPE
    return 1 if isinstance(error, Exception) else None


def _explained(error: BaseException) -> str | None:
    """Return the line for the user; None where silence is right."""
    if isinstance(error, KeyboardInterrupt | BrokenPipeError):
        return None
    if isinstance(error, LmonnxError):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return f"unexpected {type(error).__name__}: {error}; run again with --debug"


def _discard_output() -> None:
    """Point standard output at nothing, so that Python's last flush has nothing to fail on.

    Source:
        docs.python.org/3/library/signal.html, "Note on SIGPIPE".
    """
    with suppress(AttributeError, OSError, ValueError):  # no stdout, or one without a descriptor
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
