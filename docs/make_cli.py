"""The commands' own help → docs/cli.md; a test holds the page to it.

Run from the repository's root:

    python docs/make_cli.py
"""

from __future__ import annotations

import inspect
from pathlib import Path

import click

from lmonnx.cli import main

PAGE = Path(__file__).with_name("cli.md")
_NOTE = "<!-- Made by `python docs/make_cli.py` from the commands' help; do not edit. -->"


def page() -> str:
    """Return the text of docs/cli.md: the group first, then a section a command.

    Made from names, types and help texts, not from click's layout, which differs by its version.
    """
    commands = [_section(f"lmonnx {name}", command) for name, command in commands_by_name().items()]
    options = _options(main)
    every = _paragraph(main.help) + " Every command takes `--help` and `--debug`."
    parts = [_NOTE, "# Commands", every, options, *_epilog(main.epilog), *commands]
    return "\n\n".join(parts) + "\n"


def commands_by_name() -> dict[str, click.Command]:
    """Return the commands by their names, in the order of the pipeline."""
    context = click.Context(main)
    found = {name: main.get_command(context, name) for name in main.list_commands(context)}
    return {name: command for name, command in found.items() if command is not None}


def _section(name: str, command: click.Command) -> str:
    arguments = [p for p in command.params if isinstance(p, click.Argument)]
    names = [argument.metavar or str(argument.name).upper() for argument in arguments]
    usage = " ".join([name, *names, "[OPTIONS]"])
    text = inspect.cleandoc(command.help or "").split("\n\n")
    paragraphs = [_paragraph(paragraph) for paragraph in text]
    parts = [f"## {name}", _code(usage), *paragraphs, _options(command), *_epilog(command.epilog)]
    return "\n\n".join(part for part in parts if part)


def _options(command: click.Command) -> str:
    options = [p for p in command.params if isinstance(p, click.Option) and p.name != "debug"]
    rows = [f"| {_spelling(option)} | {_meaning(option)} |" for option in options]
    return "\n".join(["| option | meaning |", "|---|---|", *rows]) if rows else ""


def _spelling(option: click.Option) -> str:
    names = ", ".join(f"`{name}`" for name in option.opts)
    if option.is_flag:
        return names
    kind = option.type
    value = option.metavar or kind.name.upper().split(" ")[0]
    if isinstance(kind, click.Choice):
        value = " | ".join(str(choice) for choice in kind.choices)
    return f"{names} `{value}`".replace("|", "\\|")


def _meaning(option: click.Option) -> str:
    notes = ["required"] if option.required else []
    notes += ["may be repeated"] if option.multiple else []
    notes += [f"default `{option.default}`"] if option.show_default else []
    return " ".join([option.help or "", *([f"({', '.join(notes)})"] if notes else [])])


def _epilog(epilog: str | None) -> list[str]:
    """Return the paragraphs after the options; examples as code."""
    found = []
    for part in (epilog or "").split("\b\n"):
        title, _, rest = part.strip().partition("\n")
        if title == "Examples:":
            found.append(_code(inspect.cleandoc(f"\n{rest}")))
        elif part.strip():
            found.append(_paragraph(part))
    return found


def _paragraph(text: str | None) -> str:
    return " ".join((text or "").split())


def _code(text: str) -> str:
    return f"```sh\n{text}\n```"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
