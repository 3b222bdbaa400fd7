"""Train, eval and test: split by a hash of the content.

A unit is what stays on one side: the examples of one source, or without a source those whose
conversations begin with the same prompt (`Example.first_prompt`; case, width and white space don't
count). Where a unit goes depends on nothing but its name, so adding, removing or reordering
examples never moves one from a held-out side to training or back. What shares a prompt or a source
with a side of higher precedence (test, eval, train) is removed, not moved. Files that name their
side themselves are obeyed; what they hold out is not split off the others again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from tuneserve.chat.examples import Example, fold_messages
from tuneserve.console import percent
from tuneserve.files import sha256_text
from tuneserve.finetune.data.near_duplicates import find_near_duplicates
from tuneserve.finetune.data.notes import Notes

SPLITS = ("train", "eval", "test")
# Of duplicates in two splits, the one in the split with the higher number is kept.
_PRECEDENCE = {"test": 2, "eval": 1, "train": 0}


@dataclass(frozen=True)
class NearDuplicate:
    """A removed example, the held-out one that says nearly the same, and how similar they are."""

    example: Example
    held: Example
    similarity: float

    def describe(self) -> str:
        """'a.jsonl:3 is 83 % like a.jsonl:9'."""
        return f"{self.example.where} is {percent(self.similarity, 0)} like {self.held.where}"


@dataclass
class Split:
    """The examples of each split, and what was removed on the way."""

    train: list[Example] = field(default_factory=list)
    eval: list[Example] = field(default_factory=list)
    test: list[Example] = field(default_factory=list)
    duplicates: int = 0
    straddling: int = 0
    near: list[NearDuplicate] = field(default_factory=list)
    notes: Notes = field(default_factory=Notes)

    @property
    def removed(self) -> int:
        """Examples that were removed as duplicates of any kind."""
        return self.duplicates + self.straddling + len(self.near)

    def part(self, name: str) -> list[Example]:
        """The examples of 'train', 'eval' or 'test'."""
        return {"train": self.train, "eval": self.eval, "test": self.test}[name]

    def examples(self) -> list[Example]:
        """All of them, held-out ones first."""
        return [*self.test, *self.eval, *self.train]

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
    """Remove exact duplicates and split the rest.

    An example with a side goes there ('train' is what the other sides are split off); a fraction is
    not used where examples have that side. One with a source goes where its source goes, whatever
    its group; one without goes by the prompt its conversation begins with. A prompt of a learned
    answer that would still occur on two sides (the same question in two documents, or behind turns
    that one conversation learns and another does not) is kept on the side of higher precedence
    only, and so is a source, and what is `near_duplicates` or more (below 1) like a held-out prompt
    (see tuneserve.finetune.data.near_duplicates).
    """
    ready = {example.side for example in examples}
    split = Split()
    for name, fraction in (("eval", eval_fraction), ("test", test_fraction)):
        if name in ready and fraction > 0:
            first = next(example for example in examples if example.side == name)
            text = f"{name}_fraction is not used: files hold the {name} examples themselves"
            split.notes.add(text, first.where, odd=False)
    eval_fraction = 0.0 if "eval" in ready else eval_fraction
    test_fraction = 0.0 if "test" in ready else test_fraction
    placed: dict[tuple[str, str], Example] = {}
    for example in examples:
        side = side_of(example, eval_fraction, test_fraction)
        placed.setdefault((side, sha256_text(example.content_key)), example)
    split.duplicates = len(examples) - len(placed)
    held: dict[str, str] = {}
    sided = [(side, example, _one_sided(example)) for (side, _), example in placed.items()]
    for side, _, keys in sided:
        for key in keys:
            if key not in held or _PRECEDENCE[side] > _PRECEDENCE[held[key]]:
                held[key] = side
    for side, example, keys in sided:
        winner = max((held[key] for key in keys), key=_PRECEDENCE.__getitem__)
        if winner == side:
            split.part(side).append(example)
        else:
            split.straddling += 1
            text = f"removed from {side}: a prompt of it or its source is in {winner}"
            split.notes.add(text, example.where, odd=False)
    split.near += remove_near(split.eval, split.test, near_duplicates)
    split.near += remove_near(split.train, [*split.test, *split.eval], near_duplicates)
    return split


def remove_near(
    examples: list[Example], held: Sequence[Example], least: float
) -> list[NearDuplicate]:
    """Take out of `examples` the near-duplicates, by their prompts, of `held`; returns them.

    Conversations with exactly a prompt in common are taken out with any `least`. Prompts that
    differ in case, width or white space only have a similarity of 1 too, and stay with a `least`
    of 1.
    """
    found = list(_near(examples, held, least))
    places = {id(one.example) for one in found}
    examples[:] = [example for example in examples if id(example) not in places]
    return found


def side_of(example: Example, eval_fraction: float, test_fraction: float) -> str:
    """'train', 'eval' or 'test', from the example alone."""
    if example.side in ("eval", "test"):
        return example.side
    position = position_of(example)
    if position < test_fraction:
        return "test"
    if position < test_fraction + eval_fraction:
        return "eval"
    return "train"


def position_of(example: Example) -> float:
    """Where its unit stands, from 0 to 1: test takes the lowest, eval the next, train the rest."""
    return int(sha256_text(unit_of(example))[:16], 16) / 2**64


def unit_of(example: Example) -> str:
    """The name of what stays on one side with the example."""
    if example.source:
        return f"source\x1d\x1d{example.source}"
    return f"prompt\x1d{fold_messages(example.first_prompt)}"


def _one_sided(example: Example) -> list[str]:
    """Hashes of what must not be on two sides: the prompts and, where there is one, the source."""
    source = [sha256_text(f"source\x1d{example.source}")] if example.source else []
    return [*example.prompt_hashes(), *source]


def _near(
    examples: Sequence[Example], held: Sequence[Example], least: float
) -> Iterator[NearDuplicate]:
    asked = {one: other for other in reversed(held) for one in other.prompt_hashes()}
    texts = [fold_messages(other.prompt or other.messages) for other in held]
    alike = dict(zip(reversed(texts), reversed(held), strict=True)) if least < 1 else {}
    others: list[tuple[str, Example]] = []
    for example in examples:
        text = fold_messages(example.prompt or example.messages)
        common = (asked[one] for one in example.prompt_hashes() if one in asked)
        same = next(common, None) or alike.get(text)
        if same is not None:
            yield NearDuplicate(example, same, 1.0)
        else:
            others.append((text, example))
    if least < 1:
        for one in find_near_duplicates([text for text, _ in others], texts, least):
            yield NearDuplicate(others[one.text][1], held[one.held], one.similarity)
