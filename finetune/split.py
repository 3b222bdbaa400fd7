"""Train, eval and test: split by a hash of the content.

Where an example goes depends on nothing but itself, so adding, removing or reordering others never
moves one from training to the held-out test or back. Groups are hashed alike, which gives each the
same fractions up to chance.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from finetune.examples import Example, digest

SPLITS = ("train", "eval", "test")
# Held out wins: an example's twin in a later split is dropped from the earlier one.
_PRECEDENCE = {"test": 2, "eval": 1, "train": 0}


@dataclass
class Split:
    """The examples of each split, and what was removed on the way."""

    train: list[Example] = field(default_factory=list)
    eval: list[Example] = field(default_factory=list)
    test: list[Example] = field(default_factory=list)
    duplicates: int = 0
    straddling: int = 0

    def part(self, name: str) -> list[Example]:
        """The examples of 'train', 'eval' or 'test'."""
        parts = {"train": self.train, "eval": self.eval, "test": self.test}
        return parts[name]

    def counts(self) -> dict[str, int]:
        return {name: len(self.part(name)) for name in SPLITS}

    def groups(self) -> dict[str, dict[str, int]]:
        """Examples by group and split; examples without a group are left out."""
        found: dict[str, dict[str, int]] = {}
        for name in SPLITS:
            for group, count in Counter(e.group for e in self.part(name) if e.group).items():
                found.setdefault(group, dict.fromkeys(SPLITS, 0))[name] = count
        return dict(sorted(found.items()))


def split_examples(
    examples: Sequence[Example], *, eval_fraction: float, test_fraction: float
) -> Split:
    """Remove duplicates and split the rest.

    An example with a source goes where its group and source go, so that pieces of one document
    stay together; one without goes by its normalised prompt. A prompt that would still occur on
    two sides (the same sentence in two documents) is kept on the held-out side only.
    """
    unique = _without_duplicates(examples)
    sides = [side_of(example, eval_fraction, test_fraction) for example in unique]
    held: dict[str, str] = {}
    for example, side in zip(unique, sides, strict=True):
        key = digest(example.prompt_key)
        if key not in held or _PRECEDENCE[side] > _PRECEDENCE[held[key]]:
            held[key] = side
    split = Split(duplicates=len(examples) - len(unique))
    for example, side in zip(unique, sides, strict=True):
        if held[digest(example.prompt_key)] == side:
            split.part(side).append(example)
        else:
            split.straddling += 1
    return split


def repeated(examples: Sequence[Example]) -> list[Example]:
    """Each example as often as its weight says; of a fraction, a share chosen by hash."""
    found = []
    for example in examples:
        times = int(example.weight)
        part = int(digest(f"weight\x1d{example.content_key}")[:16], 16) / 2**64
        found += [example] * (times + (part < example.weight - times))
    return found


def side_of(example: Example, eval_fraction: float, test_fraction: float) -> str:
    """'train', 'eval' or 'test', from the example alone."""
    unit = (
        f"source\x1d{example.group or ''}\x1d{example.source}"
        if example.source
        else f"prompt\x1d{example.prompt_key}"
    )
    position = int(digest(unit)[:16], 16) / 2**64
    if position < test_fraction:
        return "test"
    if position < test_fraction + eval_fraction:
        return "eval"
    return "train"


def _without_duplicates(examples: Sequence[Example]) -> list[Example]:
    first: dict[str, Example] = {}
    for example in examples:
        first.setdefault(digest(example.content_key), example)
    return list(first.values())
