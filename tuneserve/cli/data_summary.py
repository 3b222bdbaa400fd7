"""What `preview` and `data check` tell of a data set in the same words: kinds of examples, what was
changed and what was left out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from tuneserve.console import say, table
from tuneserve.errors import grouped

if TYPE_CHECKING:
    from tuneserve.finetune.data.kinds import Kind
    from tuneserve.finetune.data.notes import Note
    from tuneserve.finetune.data.prepare import Prepared
    from tuneserve.finetune.data.split import Split

SHOWN = 20
NEAR_SHOWN = 5


def say_kinds(kinds: Sequence[Kind], *, places: bool = False) -> None:
    """A table of the kinds of examples, with a column for each part of the data, and with `places`
    one for where the first stands (its file without the folder)."""
    parts = list(dict.fromkeys(part for kind in kinds for part in kind.examples))
    rows = [
        [
            kind.name,
            *(f"{kind.examples.get(part, 0):,}" for part in parts),
            *([kind.first.rpartition("/")[2]] if places else []),
        ]
        for kind in kinds
    ]
    table("Kinds of examples", ("kind", *parts, *(["first"] if places else [])), rows)


def say_removed(split: Split) -> None:
    """What the split removed, and why; nothing if it removed nothing."""
    reasons = {
        "the same as an earlier example": split.duplicates,
        "a held-out prompt is the same": split.straddling,
        "a held-out prompt is nearly the same (near_duplicates)": len(split.near),
    }
    pairs = [f"  {near.describe()}" for near in split.near]
    counted = [f"{count:,} x {reason}" for reason, count in reasons.items() if count]
    say_list("Removed as duplicates:", [*counted, *limited(pairs, NEAR_SHOWN, indent="  ")])


def say_changes(notes: Iterable[Note], lines: Sequence[str]) -> None:
    """What was changed, left out or may be meant otherwise (odd notes, then `lines`), and apart
    from it the notes that only inform."""
    notes = list(notes)
    odd = limited(note.line() for note in notes if note.odd)
    say_list("Changed, left out or cut:", [*odd, *lines])
    say_list("For information:", limited(note.line() for note in notes if not note.odd))


def left_out(prepared: Prepared) -> list[str]:
    """How many records skip_bad left out, and why those that could not be read."""
    if not prepared.skipped:
        return []
    reasons = [f"    {reason}" for reason in grouped(prepared.refused)]
    return [
        f"{prepared.skipped:,} x left out as unusable (skip_bad)",
        *limited(reasons, indent="    "),
    ]


def say_list(title: str, lines: Sequence[str]) -> None:
    """A title and the lines below it; nothing if there are none."""
    if not lines:
        return
    say(title)
    for line in lines:
        say(f"  {line}")


def limited(lines: Iterable[str], most: int = SHOWN, *, indent: str = "") -> list[str]:
    """The first lines, and how many more there are."""
    lines = list(lines)
    more = len(lines) - most
    return lines if more <= 0 else [*lines[:most], f"{indent}… and {more:,} more"]
