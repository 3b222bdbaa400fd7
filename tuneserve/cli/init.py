"""`tuneserve init`: a first recipe for your data and a base."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

import click

from tuneserve.cli.data import ending_options, is_done, output_option
from tuneserve.console import print_json, say
from tuneserve.errors import UsageError
from tuneserve.files import write_text
from tuneserve.options import given_options, settings_options
from tuneserve.recipe import load_recipe, validate
from tuneserve.settings import Recipe

_HEADING = """Recipe of tuneserve; every setting: docs/settings.md.
Editors: tuneserve init --json-schema > recipe.schema.json, then begin this file with
'#:schema ./recipe.schema.json'."""


@click.command("init")
@output_option("mine.toml")
@click.option("--json-schema", is_flag=True, help="Print the JSON schema of recipes, and end.")
@click.option(
    "--calibrate/--no-calibrate",
    default=True,
    help="Time this machine for about ten seconds, to tell how long training takes.  [on]",
)
@ending_options
@settings_options("model", "data", "train", "convert")
@click.pass_context
def command(
    context: click.Context,
    /,
    output: Path,
    json_schema: bool,
    calibrate: bool,
    force: bool,
    skip_done: bool,
    as_json: bool,
    **_: object,
) -> None:
    """Write a first recipe: asks for data and base, looks at both, says what will happen.

    What it suggests (longest length, epochs, a template for a base that has none, how answers are
    scored) stands in the recipe with the setting's description; options beat it. A table whose
    columns have names of their own is asked about, or mapped by --fields. Then as `tuneserve plan`:
    memory, steps and time on this machine. Nothing is trained.

    \b
    tuneserve init
    tuneserve init --file tickets.csv --base ./my-model -o tickets.toml
    tuneserve init --json-schema > recipe.schema.json
    """
    if json_schema:
        from tuneserve.recipe_schema import recipe_schema

        print_json(recipe_schema())
        return
    if is_done(output, force=force, skip_done=skip_done):
        return
    _require_recipe(output)
    tables = given_options(context)
    _ask(tables, "data", "file", "Examples (a file, a folder, a pattern, hub:owner/name)", None)
    _ask(tables, "model", "base", "Base model (a folder, a .gguf, a hub id, demo)", "demo")
    _map_columns(tables)
    from tuneserve.finetune.data.reading import UnusableError

    recipe = validate(tables, where="settings")
    try:
        found = _look(recipe)
    except UnusableError as error:
        if not sys.stdin.isatty():
            raise
        say(error.render(), lines=True)
        if not click.confirm("Leave out what can't be used (skip_bad)?", err=True):
            raise click.exceptions.Exit(error.exit_code) from error
        tables["data"]["skip_bad"] = True
        recipe = validate(tables, where="settings")
        found = _look(recipe)
    for section, values in found["suggested"].items():
        tables[section] = {**values, **tables.get(section, {})}
    recipe = validate(tables, where="settings")

    from tuneserve.base import read_base_config
    from tuneserve.cli.plan import look_ahead
    from tuneserve.finetune.runtime.libraries import has_gpu
    from tuneserve.recipe_text import CHANGED_FIRST, recipe_text

    device = "cuda" if has_gpu() else "cpu"
    shown = look_ahead(
        recipe, read_base_config(recipe.model.base), device=device, calibrate=calibrate, named=True
    )
    write_text(output, recipe_text(tables, CHANGED_FIRST, _HEADING))
    say(f"recipe: {output}")
    if "left_out" in shown:  # which `look_ahead` has told
        say(f"next: tuneserve data check --config {shlex.quote(str(output))}")
    else:
        say(f"next: tuneserve train --config {shlex.quote(str(output))}")
    if as_json:
        print_json({"recipe": str(output), "settings": _plain(tables), **found, "plan": shown})


def _require_recipe(output: Path) -> None:
    """Raise UsageError where something else than a recipe would be replaced."""
    if not output.exists():
        return
    size = output.stat().st_size
    try:
        reason = "" if load_recipe(output) or not size else "no table"
    except UsageError as error:
        reason = error.message
    if reason:
        raise UsageError(
            f"is no recipe, and is not replaced ({reason})",
            where=str(output),
            hint="Choose another name, or move it away.",
        )


def _ask(
    tables: dict[str, dict[str, Any]], section: str, name: str, question: str, default: str | None
) -> None:
    """Put a setting that was not given into the tables: with nobody to ask its default. Raises
    UsageError where it has none."""
    if name in tables.get(section, {}):
        return
    if sys.stdin.isatty():
        answer = click.prompt(question, default=default, err=True)
    elif default is not None:
        answer = default
        say(f"{section}.{name} = {default}: not given, and there is nobody to ask")
    else:
        raise UsageError("is not given, and there is nobody to ask", where=f"--{name}")
    tables.setdefault(section, {})[name] = answer


def _map_columns(tables: dict[str, dict[str, Any]]) -> None:
    """Ask which columns are meant where none has a name that is known."""
    from tuneserve.cli.columns import guessed_columns, unknown_columns

    data = tables["data"]
    columns = [] if data.get("fields") else unknown_columns(Path(data["file"]))
    if len(columns) < 2:
        return
    guess = guessed_columns(columns)
    asked, answered = guess.asked.name, guess.answered.name
    shown = ", ".join(f"{column.name} ({column.describe()})" for column in columns)
    option = shlex.quote(f"instruction={asked},output={answered}")
    if not sys.stdin.isatty():
        raise UsageError(
            f"which column is the prompt, and which one the answer? There are: {shown}",
            where=str(data["file"]),
            hint=f"It seems that {guess.why()}. Say so: --fields {option}",
        )
    say(f"columns: {shown}")
    say(f"suggested: {guess.why()}")
    names = [column.name for column in columns]
    asked = _choose("Which column is the prompt?", asked, names)
    answered = _choose("Which column is the answer?", answered, names)
    data["fields"] = (f"instruction={asked}", f"output={answered}")


def _choose(question: str, default: str, columns: Collection[str]) -> str:
    # They stand above the questions already, and may be long.
    found: str = click.prompt(
        question, default=default, type=click.Choice(list(columns)), show_choices=False, err=True
    )
    return found


def _look(recipe: Recipe) -> dict[str, Any]:
    """Read data and base, show what they are, and return what they suggest."""
    from tuneserve.base import read_base_config
    from tuneserve.cli.data_summary import left_out, say_changes, say_removed
    from tuneserve.cli.recipe_draft import draft
    from tuneserve.finetune.data.prepare import prepare_examples
    from tuneserve.model_shape import ModelShape

    prepared = prepare_examples(recipe.data)
    counts = prepared.split.counts()
    parts = ", ".join(f"{count:,} {part}" for part, count in counts.items())
    say(f"examples ({', '.join(prepared.shapes)}): {parts}")
    say_changes(prepared.notes, left_out(prepared))
    say_removed(prepared.split)
    base = read_base_config(recipe.model.base)
    shape = ModelShape.of(base.config, base.where)
    say(f"base: {shape.architecture}, {shape.parameters / 1e6:,.0f} million parameters")
    found = draft(recipe, prepared, base, shape)
    for reason in found.reasons:
        say(f"suggested: {reason}")
    return {"split": counts, "suggested": found.settings, "reasons": found.reasons}


def _plain(tables: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The tables as JSON has them."""
    return {
        section: {
            name: str(value) if isinstance(value, Path) else value for name, value in values.items()
        }
        for section, values in tables.items()
    }
