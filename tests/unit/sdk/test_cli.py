"""The command line as a whole: help that can be copied, errors of one line."""

import shlex

import click
import pytest
from click.testing import CliRunner

from penstock.cli import penstock


def commands(group=penstock, path=("penstock",)):
    """Every command with the words that lead to it."""
    context = click.Context(group)
    yield path, group
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command


COMMANDS = dict(commands())


def examples(path):
    """The lines of the examples in the help of a command, without variables before them."""
    shown = CliRunner().invoke(penstock, [*path[1:], "--help"], terminal_width=100)
    assert shown.exit_code == 0
    assert "\\b" not in shown.output
    _, _, rest = shown.output.partition("Example")
    for line in rest.partition("\n\n")[0].splitlines()[1:]:
        words = shlex.split(line)
        while words and "=" in words[0]:
            del words[0]
        yield words


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_help_ends_with_examples_a_line_each_that_know_their_flags(path):
    found = list(examples(path))
    assert found
    for words in found:
        command, rest = penstock, words[1:]
        assert words[0] == "penstock"
        while isinstance(command, click.Group):
            _, command, rest = command.resolve_command(click.Context(command), rest)
            assert command is not None, words
        known = {flag for option in command.params for flag in option.opts}
        assert {word for word in rest if word.startswith("-")} <= known, words


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_option_says_what_it_is_for(path):
    for option in COMMANDS[path].params:
        assert isinstance(option, click.Argument) or option.help, option.name


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_a_flag_that_there_is_not_is_one_line_of_usage(path):
    refused = CliRunner().invoke(penstock, [*path[1:], "--colour", "red"])
    assert refused.exit_code == 2
    assert refused.output.splitlines()[-1].startswith("Error: No such option '--colour'")
