"""Command lines of tuneserve, read as the program itself reads them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from tuneserve.cli import cli
from tuneserve.options import resolve_settings
from tuneserve.settings import Recipe


def parsed(words: Sequence[str]) -> tuple[Recipe, dict[str, Any]]:
    """The settings and parameters of a command line without `tuneserve`. Raises click.UsageError
    for what the command refuses."""
    with _context(words) as context:
        return resolve_settings(context), dict(context.params)


def check_words(words: Sequence[str]) -> None:
    """Raise click.UsageError if a command line has a command, option or value that is none."""
    _context(words).close()


def _context(words: Sequence[str]) -> click.Context:
    parent = cli.make_context("tuneserve", [words[0]])
    command: click.Command | None = cli.get_command(parent, words[0])
    assert command is not None, words
    rest = list(words[1:])
    while isinstance(command, click.Group) and rest:
        parent = command.make_context(words[0], [rest[0]], parent=parent)
        command = command.get_command(parent, rest.pop(0))
        if command is None:
            raise click.UsageError(f"no such command: {words}")
    return command.make_context(words[0], rest, parent=parent)


def options() -> set[str]:
    """Every long option of every command."""
    found = {"--help", "--version", "--debug"}

    def collect(command: click.Command, context: click.Context) -> None:
        for param in command.params:
            found.update(name for name in [*param.opts, *param.secondary_opts] if name[:2] == "--")
        if isinstance(command, click.Group):
            for name in command.list_commands(context):
                inner = command.get_command(context, name)
                assert inner is not None
                collect(inner, click.Context(inner, parent=context))

    collect(cli, click.Context(cli))
    return found
