"""docs/cli.md is what the commands say of themselves."""

import inspect

import click

from docs.make_cli import PAGE, commands_by_name, page
from lmonnx.cli import main


def test_the_page_is_made_from_the_help():
    assert PAGE.read_text(encoding="utf-8") == page(), "run: python docs/make_cli.py"


def test_every_command_has_help_and_an_example_of_itself():
    for name, command in commands_by_name().items():
        assert command.help
        assert f"lmonnx {name} " in f"{command.epilog} ".replace("\n", " ")


def test_every_option_says_what_it_does():
    for command in (main, *commands_by_name().values()):
        for option in command.params:
            assert isinstance(option, click.Argument) or inspect.cleandoc(option.help or "")
