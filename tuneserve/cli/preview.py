"""`tuneserve preview`: the examples as the model will see them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from tuneserve.cli.common import config_option
from tuneserve.cli.data_summary import left_out, say_changes, say_kinds, say_removed
from tuneserve.console import print_json, say, stderr_console, table
from tuneserve.extras import require_extra
from tuneserve.options import PREFLIGHT_SETTINGS, resolve_settings, settings_options
from tuneserve.run import runs_directory
from tuneserve.visible import hidden_parts, one_line

if TYPE_CHECKING:
    from rich.text import Text

    from tuneserve.finetune.preview import Preview, Shown
    from tuneserve.finetune.tokens.encoder import TokenCounts
    from tuneserve.finetune.tokens.pieces import Piece

BAR = 40
# Lines of a screen that are not the example's: its header, the shell's prompt.
_OTHER_ROWS = 5
_FEWEST_ROWS = 8
# Bold as well as coloured: the difference must show without colours too.
STYLES = {"context": "dim", "trained": "bold green", "special": "cyan", "left out": "yellow"}


@click.command("preview")
@config_option
@click.option(
    "-n",
    "--examples",
    type=click.IntRange(min=0),
    default=6,
    help="Kinds of examples to show a typical one of, the most frequent first.  [6]",
)
@click.option(
    "--json", "as_json", is_flag=True, help="Print figures and examples as JSON on stdout."
)
@settings_options("model", "data")
@settings_options("convert", only=PREFLIGHT_SETTINGS)
@click.pass_context
def command(
    context: click.Context, /, config: Path | None, examples: int, as_json: bool, **_: object
) -> None:
    """Show the examples as the model will see them, and what will be trained.

    One example of each kind (shape of the record, tools, thoughts, several turns, cut). Trained
    tokens are bold green (and between guillemets: «so»), special tokens cyan. Then what was
    changed, left out or cut, and why. No model is loaded. Exits with 2 if the training would refuse
    the data, or what is trained could not be converted.

    \b
    tuneserve preview --config examples/sentiment.toml
    """
    recipe = resolve_settings(context, recipe=config)
    require_extra("train", "showing what is trained")
    from tuneserve.finetune.data.reading import raise_problems
    from tuneserve.finetune.preview import preview

    found = preview(recipe, examples=examples)
    show(found)
    if as_json:
        print_json(found.figures().to_json())
    total = sum(counts.examples for counts in found.counts.values())
    raise_problems(found.problems, total, where=str(recipe.data.file), what="trained on")
    from tuneserve.base import resolve_base
    from tuneserve.convert.preflight import require_convertible

    base = resolve_base(recipe.model.base)
    all_examples = found.prepared.split.examples()
    require_convertible(recipe, base, all_examples, place=runs_directory(), quantizes=False)


def show(found: Preview) -> None:
    """Print the typical examples, the counts, and what was changed or left out."""
    for shown in found.shown:
        _show_example(shown)
    show_counts(found.counts, found.histogram)
    say_kinds(found.kinds)
    prepared = found.prepared
    lines = [
        f"{counts.truncated:,} x cut at the longest length (max_seq_length): "
        f"{counts.trained_tokens_lost:,} tokens to train are lost in '{part}'"
        for part, counts in found.counts.items()
        if counts.truncated
    ]
    say_changes(prepared.notes, [*lines, *left_out(prepared)])
    say_removed(prepared.split)
    if found.epoch:
        say(found.epoch)


def _show_example(shown: Shown) -> None:
    from rich.text import Text

    from tuneserve.finetune.tokens.pieces import joined, shortened

    console = stderr_console()
    kind, example = shown.kind, shown.example
    title = f"{one_line(kind.name)}: {kind.total:,} example{'s' * (kind.total != 1)}"
    console.rule(Text(title), align="left")
    rows = max(console.height - _OTHER_ROWS, _FEWEST_ROWS)
    pieces = joined(shortened(shown.pieces, rows=rows, width=console.width))
    about = (
        f"{example.where} (id {example.id}): {shown.tokens:,} tokens, "
        f"{shown.trained_tokens:,} of them trained"
    )
    if shown.length_before_cut > shown.tokens:
        about += f"; cut, {shown.length_before_cut:,} before"
    if shown.part != "train":
        about += f"; held out for '{shown.part}', and not trained on"
    console.print(Text(one_line(about), style="bold"))
    console.print(_marked(pieces))


def _marked(pieces: list[Piece]) -> Text:
    """The text with what is trained between guillemets."""
    from rich.text import Text

    text = Text()
    inside = False
    for piece in pieces:
        if piece.trained != inside:
            text.append("«" if piece.trained else "»", style="bold green")
            inside = piece.trained
        shown = f"\n{piece.text}\n" if piece.kind == "left out" else piece.text
        for part, is_escape in hidden_parts(shown):
            # The same letters in the data are not shown in reverse.
            text.append(part, style=f"{STYLES[piece.kind]}{' reverse' if is_escape else ''}")
    if inside:
        text.append("»", style="bold green")
    return text


def show_counts(parts: dict[str, TokenCounts], histogram: list[tuple[int, int, int]]) -> None:
    """Tables of the tokens by part of the data (empty ones left out), and of the lengths."""
    rows = []
    for name, counts in parts.items():
        if not counts.examples:
            continue
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
    most = max((count for _, _, count in histogram), default=1)
    say("length in tokens (train)")
    for low, high, count in histogram:
        say(f"{low:>8,} to {high - 1:<8,} {'█' * round(BAR * count / most):<{BAR}} {count:,}")
