"""Why a part of the split came out empty or small, and what fills it."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tuneserve.chat.examples import Example
from tuneserve.finetune.data.split import Split, position_of, unit_of

_NAMED = 5
_MOST_NAMED = 20
# Suggested fractions are rounded up to this.
_STEP = 100
_WITHOUT = "set eval_fraction and test_fraction to 0 to train on everything"


def why_empty(
    examples: Sequence[Example], empty: str, eval_fraction: float, test_fraction: float
) -> tuple[str, str]:
    """The reason that none of `examples` is in the part `empty`, and what to do."""
    taken = [example for example in examples if example.side not in ("eval", "test")]
    if not taken:
        return "the files name all of them eval or test examples", "Add examples to train on."
    units: dict[str, float] = {}
    for example in taken:
        if (name := unit_of(example)) not in units:
            units[name] = position_of(example)
    sources = list(dict.fromkeys(example.source for example in taken if example.source))
    own = "Give files of your own for eval and test (a folder with train.jsonl and test.jsonl)"
    if len(units) == 1 and not sources:
        said = f"all {len(taken):,} examples begin with" if len(taken) > 1 else "there is"
        prompt = "the same prompt" if len(taken) > 1 else "one prompt only"
        reason = f"{said} {prompt}, and one prompt stays on one side"
        return reason, f"Add other prompts, or {_WITHOUT}."
    by_source = sum(1 for example in taken if example.source) == len(taken)
    if by_source and len(sources) <= _MOST_NAMED:
        named = ", ".join(map(repr, sources[:_NAMED])) + ", ..." * (len(sources) > _NAMED)
        count = f"{len(sources)} sources" if len(sources) > 1 else "one source only"
        return (
            f"they have {count} ({named}), and a source stays on one side",
            "If 'source' is not the document that an example was taken from, leave it unused: "
            f"--fields source=. {own}, or {_WITHOUT}.",
        )
    what = f"{len(units):,} {'sources' if by_source else 'prompts' if not sources else 'units'}"
    if empty == "train" or len(units) == 1:
        wanted = f"eval_fraction = {eval_fraction:g} and test_fraction = {test_fraction:g}"
        return (
            f"{what} are spread by a hash, {wanted} took all, or what was left repeats them",
            f"Add examples, take smaller fractions, or {_WITHOUT}.",
        )
    fraction = eval_fraction if empty == "eval" else test_fraction
    lower = test_fraction if empty == "eval" else 0.0
    above = [position for position in units.values() if position >= lower]
    enough = (math.floor((min(above) - lower) * _STEP) + 1) / _STEP if above else 1.0
    if fraction >= enough:
        return (
            f"of {what} those that the hash gives it repeat the prompts of another part",
            f"Add examples, raise near_duplicates, or {_WITHOUT}.",
        )
    hint = f"Add examples, or {_WITHOUT}."
    if enough + lower < 1:
        hint = f"Add examples, set {empty}_fraction to {enough:g} or more, or to 0 for none."
    return f"{what} are spread by a hash, and {fraction:g} of them was too little", hint


def note_few_left(split: Split) -> None:
    """Note where more examples repeat what is held out than are left to train on."""
    gone = split.straddling + len(split.near)
    if gone <= len(split.train):
        return
    first = split.near[0].example if split.near else split.examples()[0]
    split.notes.add(
        f"only {len(split.train):,} examples are left to train on: {gone:,} are removed because a "
        "held-out prompt is the same or nearly the same; raise near_duplicates, or set "
        "eval_fraction and test_fraction to 0, to train on those too",
        first.where,
    )
