"""Train, eval and test: split by a hash of the content.

Where an example goes depends on nothing but itself, so adding, removing or reordering others never
moves one from training to the held-out test or back. Groups are hashed alike, which gives each the
same fractions up to chance.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from tuneserve.chat.examples import Example
from tuneserve.files import sha256_text
from tuneserve.finetune.data.near_duplicates import find_near_duplicates

SPLITS = ("train", "eval", "test")
# Of duplicates in two splits, the one in the split with the higher number is kept.
_PRECEDENCE = {"test": 2, "eval": 1, "train": 0}


@dataclass(frozen=True)
class NearDuplicate:
    """A removed example, the held-out one that says nearly the same, and how similar they are."""

    example: Example
    held: Example
    similarity: float


@dataclass
class Split:
    """The examples of each split, and what was removed on the way."""

    train: list[Example] = field(default_factory=list)
    eval: list[Example] = field(default_factory=list)
    test: list[Example] = field(default_factory=list)
    duplicates: int = 0
    straddling: int = 0
    near: list[NearDuplicate] = field(default_factory=list)

    @property
    def removed(self) -> int:
        """Examples that were removed as duplicates of any kind."""
        return self.duplicates + self.straddling + len(self.near)

    def part(self, name: str) -> list[Example]:
        """The examples of 'train', 'eval' or 'test'."""
        return {"train": self.train, "eval": self.eval, "test": self.test}[name]

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
    examples: Sequence[Example],
    *,
    eval_fraction: float,
    test_fraction: float,
    near_duplicates: float = 1.0,
) -> Split:
    """Remove duplicates and split the rest.

    An example with a source goes where its group and source go, so that pieces of one document
    stay together; one without goes by its normalised prompt. A prompt that would still occur on
    two sides (the same sentence in two documents) is kept on the held-out side only, and so is one
    whose similarity to a held-out prompt is `near_duplicates` or more (see
    tuneserve.finetune.data.near_duplicates).
    """
    unique = _without_duplicates(examples)
    sides = [side_of(example, eval_fraction, test_fraction) for example in unique]
    held: dict[str, str] = {}
    for example, side in zip(unique, sides, strict=True):
        key = sha256_text(example.prompt_key)
        if key not in held or _PRECEDENCE[side] > _PRECEDENCE[held[key]]:
            held[key] = side
    split = Split(duplicates=len(examples) - len(unique))
    for example, side in zip(unique, sides, strict=True):
        if held[sha256_text(example.prompt_key)] == side:
            split.part(side).append(example)
        else:
            split.straddling += 1
    split.near += remove_near(split.eval, split.test, near_duplicates)
    split.near += remove_near(split.train, [*split.test, *split.eval], near_duplicates)
    return split


def remove_near(
    examples: list[Example], held: Sequence[Example], least: float
) -> list[NearDuplicate]:
    """Take out of `examples` the near-duplicates, by their prompts, of `held`; returns them."""
    pairs = find_near_duplicates(
        [example.prompt_key for example in examples], [other.prompt_key for other in held], least
    )
    found = [NearDuplicate(examples[one.text], held[one.held], one.similarity) for one in pairs]
    places = {one.text for one in pairs}
    examples[:] = [example for place, example in enumerate(examples) if place not in places]
    return found


def side_of(example: Example, eval_fraction: float, test_fraction: float) -> str:
    """'train', 'eval' or 'test', from the example alone."""
    unit = (
        f"source\x1d{example.group or ''}\x1d{example.source}"
        if example.source
        else f"prompt\x1d{example.prompt_key}"
    )
    position = int(sha256_text(unit)[:16], 16) / 2**64
    if position < test_fraction:
        return "test"
    if position < test_fraction + eval_fraction:
        return "eval"
    return "train"


def _without_duplicates(examples: Sequence[Example]) -> list[Example]:
    first: dict[str, Example] = {}
    for example in examples:
        first.setdefault(sha256_text(example.content_key), example)
    return list(first.values())
