"""`tuneserve preview`: the examples as the model will see them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from tuneserve.cli.common import config_option
from tuneserve.console import print_json, say, stderr_console, table
from tuneserve.errors import UsageError
from tuneserve.extras import require_extra
from tuneserve.options import resolve_settings, settings_options

if TYPE_CHECKING:
    from tuneserve.finetune.preview import Piece, Preview

BAR = 40
NEAR_SHOWN = 5
# Bold as well as coloured: the difference must show without colours too.
STYLES = {"context": "dim", "trained": "bold green", "special": "cyan"}


@click.command("preview")
@config_option
@click.option(
    "-n", "--examples", type=click.IntRange(min=0), default=3, help="Examples to show.  [3]"
)
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON on stdout.")
@settings_options("model", "data")
@click.pass_context
def command(
    context: click.Context, /, config: Path | None, examples: int, as_json: bool, **_: object
) -> None:
    """Show the examples as the model will see them, and what will be trained.

    Trained tokens are bold green (and between guillemets: «so»), special tokens cyan. No model is
    loaded. Exits with 2 if the training would refuse the data.

    \b
    tuneserve preview --config examples/sentiment.toml
    """
    recipe = resolve_settings(context, recipe=config)
    require_extra("train", "showing what is trained")
    from tuneserve.finetune.preview import preview

    found = preview(recipe, examples=examples)
    for example, shown in found.shown:
        _show_example(f"{example.where} (id {example.id})", shown)
    _show_counts(found)
    if as_json:
        print_json(found.figures().to_json())
    if found.problems:
        raise UsageError(
            f"{len(found.problems)} examples can't be trained on",
            where=str(recipe.data.file),
            problems=found.problems,
            hint="Mend them, or train with --skip-bad to leave them out.",
        )


def _show_example(title: str, shown: list[Piece]) -> None:
    from rich.text import Text

    text = Text()
    inside = False
    for piece in shown:
        if piece.trained != inside:
            text.append("«" if piece.trained else "»", style="bold green")
            inside = piece.trained
        text.append(piece.text, style=STYLES[piece.kind])
    if inside:
        text.append("»", style="bold green")
    console = stderr_console()
    console.rule(title, align="left")
    console.print(text)


def _show_counts(found: Preview) -> None:
    rows = []
    for name, counts in found.counts.items():
        per = counts.trained_per_example
        rows.append(
            [
                name,
                f"{counts.examples:,}",
                f"{counts.tokens:,}",
                f"{counts.trained_tokens:,}",
                f"{per.min} / {per.median:g} / {per.max}",
                f"{counts.truncated:,}",
                f"{counts.trained_tokens_lost:,}",
            ]
        )
    columns = (
        "split", "examples", "tokens", "trained", "per example",
        "cut", "trained tokens lost",
    )  # fmt: skip
    table("What will be trained", columns, rows)
    most = max((count for _, _, count in found.histogram), default=1)
    say("length in tokens (train)")
    for low, high, count in found.histogram:
        say(f"{low:>8,} to {high - 1:<8,} {'█' * round(BAR * count / most):<{BAR}} {count:,}")
    prepared = found.prepared
    split = prepared.split
    say(
        f"shapes: {', '.join(f'{name} {count:,}' for name, count in prepared.shapes.items())}; "
        f"duplicates removed: {split.duplicates + split.straddling:,}, "
        f"near ones: {len(split.near):,}; unusable left out: {prepared.skipped:,}"
    )
    for near in split.near[:NEAR_SHOWN]:
        say(f"  {near.example.where}: {near.similarity:.0%} like the held-out {near.held.where}")
    for line in prepared.notes.lines():
        say(f"note: {line}")
    if found.epoch:
        say(found.epoch)
