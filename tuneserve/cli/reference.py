"""The reference pages, derived from the code: every setting and every command.

`python -m tuneserve.cli.reference docs` writes docs/settings.md and docs/commands.md; a test checks
that they are what the code says.
"""

from __future__ import annotations

import sys
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import click
from pydantic.fields import FieldInfo

from tuneserve.cli import cli
from tuneserve.files import write_text
from tuneserve.options import bounds
from tuneserve.recipe import section_model
from tuneserve.settings import Recipe


def settings_page() -> str:
    """Markdown: one table of settings per recipe section."""
    lines = [
        "# Settings",
        "",
        "A recipe is a TOML file with these tables. Every key is also an option of the commands",
        "that use it: `train.learning_rate` is `tuneserve train --learning-rate`. An option beats",
        "the recipe, the recipe beats what the run was made with, and that beats the default.",
        "This page is generated from the code by `make docs`.",
    ]
    for section in Recipe.model_fields:
        model = section_model(section)
        lines += ["", f"## [{section}]", "", (model.__doc__ or "").strip(), ""]
        lines += ["| key | values | default | meaning |", "| --- | --- | --- | --- |"]
        lines += [_row(name, field) for name, field in model.model_fields.items()]
    return "\n".join(lines) + "\n"


def _row(name: str, field: FieldInfo) -> str:
    return f"| `{name}` | {_values(field)} | `{_toml(field.get_default())}` | {field.description} |"


def _values(field: FieldInfo) -> str:
    annotation = field.annotation
    if typing.get_origin(annotation) is Literal:
        return ", ".join(f"`{value}`" for value in typing.get_args(annotation))
    symbols = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    limits = [f"{symbols[name]} {limit}" for name, limit in bounds(field).items()]
    return " ".join([_type_name(annotation), *limits])


def _type_name(annotation: Any) -> str:
    shown = str(getattr(annotation, "__name__", annotation))
    if typing.get_origin(annotation) is tuple:
        return "list of text"
    names = {"str": "text", "int": "integer", "float": "number", "bool": "true or false"}
    return names.get(shown.removesuffix(" | None"), "path" if "Path" in shown else shown)


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return "[" + ", ".join(f'"{part}"' for part in value) + "]"
    if value is None:
        return "none"
    if isinstance(value, float):
        return f"{value:g}"
    return f'"{value}"' if isinstance(value, str | Path) else str(value)


def commands_page() -> str:
    """Markdown: the --help of every command."""
    lines = ["# Commands", "", "What `--help` prints, by `make docs`."]
    for context in _walk(cli, "tuneserve", None):
        help_text = context.get_help()
        lines += ["", f"## {context.command_path}", "", "```", help_text.rstrip(), "```"]
    return "\n".join(lines) + "\n"


def _walk(
    command: click.Command, name: str, parent: click.Context | None
) -> Iterator[click.Context]:
    """Contexts of a command and all below it, as they are when a user calls them."""
    context = click.Context(
        command, info_name=name, parent=parent, terminal_width=92, **command.context_settings
    )
    yield context
    if isinstance(command, click.Group):
        for child_name in command.list_commands(context):
            child = command.get_command(context, child_name)
            assert child is not None
            yield from _walk(child, child_name, context)


def write_pages(folder: Path) -> None:
    write_text(folder / "settings.md", settings_page())
    write_text(folder / "commands.md", commands_page())


if __name__ == "__main__":
    write_pages(Path(sys.argv[1]))
