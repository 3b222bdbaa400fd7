"""A split whose held-out parts have a smallest number of examples.

The fractions are shares of a hash's range: of few examples a part gets more or fewer than its share
by chance, or none. A part that comes out smaller than `least` is widened: it takes the units that
follow it in the order of their hashes. Where the fractions give enough, nothing is moved.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from tuneserve.chat.examples import Example
from tuneserve.finetune.data.split import Split, position_of, split_examples, unit_of
from tuneserve.finetune.data.split_reasons import why_empty

FEWEST_EVAL = 4
"""An eval split of fewer examples says nothing about when to stop: it is trained on."""

# A part is widened up to this share of the examples, or to its fraction if that is larger.
_LARGEST_SHARE = 0.15
# A part is not widened where training would lose more than this share of its examples, most of them
# removed as nearly held out.
_MOST_GIVEN_UP = 1 / 3

Unit = tuple[float, int]
"""Where a unit stands by its hash, and how many examples it has."""


def split_with_least(
    examples: Sequence[Example],
    *,
    eval_fraction: float,
    test_fraction: float,
    near_duplicates: float = 1.0,
    least: int = 0,
    general: bool = False,
) -> Split:
    """`split_examples`, whose 'eval' and 'test' have at least `least` examples where 15 % of all
    (or their own fraction) are so many; of fewer examples as many as that share is.

    An eval split that still has fewer than `FEWEST_EVAL` is left out: its examples are trained on,
    and a note says so; of `general` examples it stays as it is, for their loss is to be
    measured. Parts that files name themselves stay as they are; with a `least` of 0 the fractions
    alone count.
    """
    fractions = {"test": test_fraction, "eval": eval_fraction}

    def split_by(fractions: dict[str, float]) -> Split:
        return split_examples(
            examples,
            eval_fraction=fractions["eval"],
            test_fraction=fractions["test"],
            near_duplicates=near_duplicates,
        )

    split = by_fractions = split_by(fractions)
    ready = {example.side for example in examples}
    free = [example for example in examples if example.side not in ("eval", "test")]
    if not least or not free:
        return split
    units = _units(free)
    total = sum(count for _, count in units)
    for name, fraction in fractions.items():
        if name in ready or fraction == 0:
            continue
        wanted = min(least, int(max(fraction, _LARGEST_SHARE) * total))
        found, wider = split, dict(fractions)
        room = 2 * wanted  # units of many examples, or what repeats another part, could take all
        fewest = max(1, (1 - _MOST_GIVEN_UP) * len(split.train))
        while (missing := wanted - len(found.part(name))) > 0:
            below = wider["test"] if name == "eval" and "test" not in ready else 0.0
            start = below + wider[name]
            taken = _next_units(units, start, missing, room)
            if not taken:
                break
            room -= sum(count for _, count in taken)
            tried = {**wider, name: wider[name] + _end_behind(units, taken[-1]) - start}
            widened = split_by(tried)
            if len(widened.train) < fewest:
                break
            found, wider = widened, tried
        if len(found.part(name)) > len(split.part(name)):
            split, fractions = found, wider
    few = fractions["eval"] and "eval" not in ready and len(split.eval) < FEWEST_EVAL
    if few and not general:
        split = _without_eval(split, split_by({**fractions, "eval": 0.0}), free, total, fractions)
    _note_widened(split, by_fractions, general=general)
    return split


def _note_widened(split: Split, by_fractions: Split, *, general: bool) -> None:
    for name in ("test", "eval"):
        before = {id(example) for example in by_fractions.part(name)}
        for example in split.part(name):
            if id(example) not in before:
                what = "general" if general else name
                text = f"held out for {what} beyond {what}_fraction, so that there are enough"
                split.notes.add(text, example.where, odd=False)


def _without_eval(
    split: Split, without: Split, free: Sequence[Example], total: int, fractions: dict[str, float]
) -> Split:
    """The split that has no eval part, with a note of what became of the few examples in it."""
    few = split.eval
    reason = f"{total:,} examples are too few to hold {FEWEST_EVAL} out to steer training"
    if int(_LARGEST_SHARE * total) >= FEWEST_EVAL:
        why, hint = why_empty(free, "eval", fractions["eval"], fractions["test"])
        reason = f"{why}. {hint.rstrip('.')}"
    without.notes.add(
        f"no eval split, training goes on without evaluations: {reason}",
        (few or free)[0].where,
        odd=False,
    )
    return without


def _units(examples: Sequence[Example]) -> list[Unit]:
    """The units of the examples, in the order of their hashes; duplicates count once."""
    distinct = {example.content_key: example for example in examples}
    counts = Counter(unit_of(example) for example in distinct.values())
    places = {unit_of(example): position_of(example) for example in distinct.values()}
    return sorted((places[name], count) for name, count in counts.items())


def _next_units(units: Sequence[Unit], start: float, missing: int, room: int) -> list[Unit]:
    """The units from `start` on that have `missing` examples, `room` at most."""
    taken: list[Unit] = []
    for unit in units:
        have = sum(count for _, count in taken)
        if unit[0] < start:
            continue
        if have >= missing or have + unit[1] > room:
            break
        taken.append(unit)
    return taken


def _end_behind(units: Sequence[Unit], last: Unit) -> float:
    """A place between a unit and the one that follows it: sums of fractions are rounded."""
    following = next((place for place, _ in units if place > last[0]), 1.0)
    return (last[0] + following) / 2
