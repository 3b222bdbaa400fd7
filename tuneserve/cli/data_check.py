"""`tuneserve data check`: what is odd about example files, before anything is trained."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tuneserve.cli.common import config_option
from tuneserve.cli.data_summary import limited, say_changes, say_kinds, say_list, say_removed
from tuneserve.console import print_json, say
from tuneserve.errors import UsageError, grouped
from tuneserve.extras import require_extra
from tuneserve.options import given_options, resolve_settings, settings_options
from tuneserve.recipe import load_recipe
from tuneserve.settings import DataSettings, ModelSettings, Recipe

if TYPE_CHECKING:
    from tuneserve.finetune.check import DataCheck
    from tuneserve.finetune.data.prepare import Prepared
    from tuneserve.finetune.preview import Preview

# The files are the command's arguments.
_OPTIONS = {*ModelSettings.model_fields, *DataSettings.model_fields} - {"file"}


@click.command("check")
@click.argument("files", nargs=-1, metavar="FILE...")
@config_option
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on stdout.")
@settings_options("model", "data", only=_OPTIONS)
@click.pass_context
def command(
    context: click.Context, /, files: tuple[str, ...], config: Path | None, as_json: bool,
    **_: object,
) -> int:  # fmt: skip
    """Check example files: what is refused, left out, changed or odd, all at once.

    Needs no base model: reads, recognises the records, looks for duplicates and splits. With --base
    (or another setting of [model]) the examples are encoded too, as training would: that finds what
    a chat template can't write, what is cut and what has no token. Exits with 0 if nothing is odd,
    with 1 if something is refused or odd, with 2 if there is nothing to read.

    \b
    tuneserve data check mine.jsonl
    tuneserve data check mine.jsonl more.csv --base demo --json
    """
    recipe = _recipe(context, files, config)
    wants_base = "model" in given_options(context) or (
        config is not None and "model" in load_recipe(config)
    )
    if wants_base:
        require_extra("train", "a check with a base")
    from tuneserve.finetune.check import check, gather

    fractions = {"eval_fraction", "test_fraction"} & given_options(context).get("data", {}).keys()
    gathered = gather(recipe.data, default_fractions=config is None and not fractions)
    prepared = gathered.prepared
    encoded = _encoded(recipe, prepared) if wants_base and prepared.shapes else None
    found = check(recipe.data, gathered, encoded)
    _show(found, prepared, encoded)
    if as_json:
        print_json(found.to_json())
    return 0 if found.ok else 1


def _recipe(context: click.Context, files: Sequence[str], config: Path | None) -> Recipe:
    recipe = resolve_settings(context, recipe=config)
    if not files:
        if config is None:
            raise UsageError("say which file: tuneserve data check FILE")
        return recipe
    first, *others = files
    data = {"file": Path(first), "more": (*others, *recipe.data.more)}
    return recipe.model_copy(update={"data": recipe.data.model_copy(update=data)})


def _encoded(recipe: Recipe, prepared: Prepared) -> Preview:
    from tuneserve.finetune.preview import preview_prepared

    # Every example that can't be encoded is to be told.
    data = recipe.data.model_copy(update={"skip_bad": False})
    recipe = recipe.model_copy(update={"data": data})
    return preview_prepared(recipe, prepared, examples=0)


def _show(found: DataCheck, prepared: Prepared, encoded: Preview | None) -> None:
    from tuneserve.cli.preview import show_counts

    if encoded is not None:
        show_counts(encoded.counts, encoded.histogram)
    if found.kinds:
        say_kinds(found.kinds, places=True)
    say_list(f"Refused: {len(found.refused):,}", limited(grouped(found.refused)))
    say_list("Wrong with the whole:", found.problems)
    cut = [f"{found.cut:,} x cut at the longest length (max_seq_length)"] if found.cut else []
    say_changes(found.notes, cut)
    say_removed(prepared.split)
    for hint in found.hints:
        say(hint)
    say(f"{', '.join(found.files)}: {_verdict(found)}")


def _verdict(found: DataCheck) -> str:
    usable = f"{found.examples:,} example{'s' * (found.examples != 1)}"
    if found.ok:
        return f"{usable}, nothing is odd"
    odd = sum(note.odd for note in found.notes)
    counts = {
        "refused": len(found.refused),
        "wrong with the whole": len(found.problems),
        "cut": found.cut,
        f"odd note{'s' * (odd != 1)}": odd,
    }
    return f"{usable}; " + ", ".join(f"{count:,} {what}" for what, count in counts.items() if count)
