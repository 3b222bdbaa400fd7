"""The training set, and which of its examples an epoch trains on, in which order.

An epoch need not be every example once: a file may count twice or half, groups may be balanced,
examples of the replay set mixed in, and an instruction put in another variant each time. Each of
these is a stream: a set of examples of which a fixed number is sampled for each epoch.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from tuneserve.chat.examples import Example, fold
from tuneserve.errors import UsageError
from tuneserve.finetune.data.prepare import Prepared
from tuneserve.finetune.data.prompt_variants import PromptVariants
from tuneserve.finetune.tokens.encoder import Encoded
from tuneserve.settings import Recipe

T = TypeVar("T")
Encode = Callable[[Sequence[Example]], list[Encoded]]
"""Examples to tokens; raises UsageError for those that can't be trained on."""

# With more answers than this per example there is nothing to balance.
_FEWEST_EXAMPLES_AN_ANSWER = 2
MOST_PASSES = 2
"""How often an epoch may repeat an example of the replay set. Measured: 51 of them, each 8 times an
epoch, took the loss on those held out from 2.51 to 3.26; without replay it was 2.76."""

# Examples of a batch come from this many batches' worth of neighbours in the shuffled order:
# enough to find some of like length, and small beside an epoch.
_WINDOW_BATCHES = 50


@dataclass(frozen=True)
class Stream:
    """Examples that are sampled together: `items[i]` holds the places of example i's prompt
    variants in the training set, and `per_epoch` examples are sampled for each epoch."""

    items: tuple[tuple[int, ...], ...]
    per_epoch: int


class EpochSampler:
    """The places in the training set that an epoch visits, each as often as it is sampled.

    Examples are sampled without replacement: none comes again before all others of its stream have
    come, and no variant before the example's others. What an epoch visits depends on the seed and
    its number alone, so that a resumed training visits what it would have visited.
    """

    def __init__(self, streams: Sequence[Stream], seed: int) -> None:
        self.streams = [stream for stream in streams if stream.items and stream.per_epoch]
        self.seed = seed

    def __len__(self) -> int:
        """Examples in an epoch."""
        return sum(stream.per_epoch for stream in self.streams)

    def places(self, epoch: int) -> list[int]:
        """The places that an epoch (counted from 0) visits, stream by stream."""
        return [
            place
            for number, stream in enumerate(self.streams)
            for place in self._sampled(number, stream, epoch)
        ]

    def _sampled(self, number: int, stream: Stream, epoch: int) -> Iterator[int]:
        """Passes over the whole stream follow one another, each in a shuffled order of its own. An
        epoch takes the next `per_epoch` examples of that sequence, which may end within a pass."""
        first = epoch * stream.per_epoch
        last = first + stream.per_epoch
        size = len(stream.items)
        for turn in range(first // size, (last - 1) // size + 1):
            order = _shuffled(stream.items, self.seed, number, turn)
            for item in order[max(first - turn * size, 0) : last - turn * size]:
                again, variant = divmod(turn, len(item))
                yield _shuffled(item, self.seed, "wordings", item[0], again)[variant]


def _shuffled(values: Sequence[T], *key: object) -> Sequence[T]:
    if len(values) == 1:
        return values
    shuffle = random.Random("/".join(map(str, key)))  # noqa: S311 - not for secrets
    return shuffle.sample(values, len(values))


class LengthGroupedSampler:
    """A sampler: an epoch's examples, shuffled, in batches of examples of like length.

    `lengths` are those of the training set, in tokens; `epochs` says which of it an epoch visits.

    Padding a batch to its longest example is wasted work. The order depends on seed and epoch
    only, so that a resumed run sees the examples it would have seen. The batch with the longest
    example comes first: if memory does not suffice, that shows in the first step. Examples of one
    of the `families` follow each other: where the first one comes, the others come with it.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        epochs: EpochSampler,
        batch_size: int,
        seed: int,
        families: Sequence[Sequence[int]] = (),
    ) -> None:
        self.lengths = lengths
        self.epochs = epochs
        self.batch_size = batch_size
        self.seed = seed
        self.epoch = 0
        self._family = {place: n for n, family in enumerate(families) for place in family}

    def __len__(self) -> int:
        return len(self.epochs)

    def set_epoch(self, epoch: int) -> None:
        """Called by the data loader at the start of each epoch."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        shuffle = random.Random(f"{self.seed}/{self.epoch}")  # noqa: S311 - not for secrets
        order = self.epochs.places(self.epoch)
        shuffle.shuffle(order)
        batches: list[list[int]] = []
        for window in self._windows(order):
            window.sort(key=lambda together: max(self.lengths[i] for i in together))
            near = [i for together in window for i in together]
            batches += [near[i : i + self.batch_size] for i in range(0, len(near), self.batch_size)]
        # A short batch must be the last one, or it would shift the borders of those after it.
        whole = [batch for batch in batches if len(batch) == self.batch_size]
        short = [i for batch in batches if len(batch) < self.batch_size for i in batch]
        shuffle.shuffle(whole)
        if whole:
            lengths = [max(self.lengths[i] for i in batch) for batch in whole]
            longest = lengths.index(max(lengths))
            whole[0], whole[longest] = whole[longest], whole[0]
        yield from (i for batch in whole for i in batch)
        yield from short

    def _windows(self, order: Sequence[int]) -> Iterator[list[list[int]]]:
        """The order in parts of `_WINDOW_BATCHES` batches, each in groups that stay together."""
        groups: list[list[int]] = []
        open_groups: dict[int, list[int]] = {}
        for place in order:
            family = self._family.get(place)
            group = open_groups.get(family) if family is not None else None
            if group is None or len(group) >= self.batch_size:
                group = []
                groups.append(group)
                if family is not None:
                    open_groups[family] = group
            group.append(place)
        window: list[list[int]] = []
        count = 0
        for group in groups:
            window.append(group)
            count += len(group)
            if count >= self.batch_size * _WINDOW_BATCHES:
                yield window
                window, count = [], 0
        if window:
            yield window


@dataclass(frozen=True)
class TrainingSet:
    """Everything that training may visit, as tokens, and the sampler of its epochs.

    `encoded` holds the task's examples, then their further prompt variants (`variants` of them),
    then the replay set (`replayable` examples). `replayed` is how many of an epoch's examples are
    of the replay set.
    """

    encoded: list[Encoded]
    sampler: EpochSampler
    replayable: int
    replayed: int
    variants: int

    def describe(self) -> str:
        """What an epoch is, in a sentence, and what is wrong with its replay in another."""
        return (
            f"an epoch draws {len(self.sampler):,} examples"
            + (f", {self.replayed:,} of them general" if self.replayed else "")
            + (f"; {self.variants:,} other wordings" if self.variants else "")
            + self._too_often()
        )

    def _too_often(self) -> str:
        if self.replayed <= MOST_PASSES * self.replayable:
            return ""
        times = round(self.replayed / self.replayable)
        return (
            f". Each of the {self.replayable} general examples comes {times} times: they are "
            "learned by heart, and more is forgotten than without them. Take more examples "
            f"(tuneserve data general --samples {times}) or a smaller replay"
        )


def build_training_set(
    prepared: Prepared, parts: Mapping[str, Sequence[Encoded]], encode: Encode, recipe: Recipe
) -> TrainingSet:
    """The training set of the prepared data. `parts` are the tokens of its parts; `encode` is
    called for further prompt variants.

    Raises UsageError if there is nothing to balance by, or a variant makes an example unusable.
    """
    settings = recipe.data
    examples = prepared.split.train
    train, replay = parts["train"], parts.get("replay", ())
    encoded = list(train)
    items = [[place] for place in range(len(examples))]
    if prepared.variants is not None:
        _add_variants(prepared.variants, examples, items, encoded, encode)
    variants = len(encoded) - len(train)
    shares = _shares(examples, settings.balance)
    streams = [
        Stream(tuple(tuple(items[place]) for place in places), count) for places, count in shares
    ]
    sampled = sum(count for _, count in shares)
    replayed = round(sampled * settings.replay / (1.0 - settings.replay))
    if replayed:
        first = len(encoded)
        encoded += replay
        streams.append(Stream(tuple((p,) for p in range(first, len(encoded))), replayed))
    sampler = EpochSampler(streams, recipe.train.seed)
    return TrainingSet(encoded, sampler, len(replay), replayed, variants)


def _add_variants(
    variants: PromptVariants,
    examples: Sequence[Example],
    items: list[list[int]],
    encoded: list[Encoded],
    encode: Encode,
) -> None:
    """Put the examples' further variants behind `encoded`, and their places into `items`."""
    others = [(place, v) for place, e in enumerate(examples) for v in variants.of(e)[1:]]
    for (place, _), tokens in zip(others, encode([v for _, v in others]), strict=True):
        items[place].append(len(encoded))
        encoded.append(tokens)


def _shares(examples: Sequence[Example], balance: str) -> list[tuple[list[int], int]]:
    """Places of examples that are sampled together, and how many of them an epoch samples.

    As they are, a file's examples are sampled as often as its weight says. Balanced, each group (or
    answer) has the same share of the whole, and within it each file the share it has there.
    """
    classes: dict[str | None, dict[float, list[int]]] = defaultdict(lambda: defaultdict(list))
    for place, example in enumerate(examples):
        classes[_class_of(example, balance)][example.weight].append(place)
    if balance == "group" and set(classes) == {None}:
        raise UsageError("no example has a group to balance by", where="data.balance")
    if balance == "answer" and len(classes) * _FEWEST_EXAMPLES_AN_ANSWER > len(examples):
        raise UsageError(
            f"{len(examples):,} examples have {len(classes):,} answers: too many to balance by",
            where="data.balance",
        )
    total = sum(example.weight for example in examples)
    cells: list[list[int]] = []
    wanted: list[float] = []
    for by_weight in classes.values():
        own = sum(weight * len(places) for weight, places in by_weight.items())
        for weight, places in by_weight.items():
            cells.append(places)
            part = weight * len(places)
            wanted.append(part if balance == "off" else total / len(classes) * part / (own or 1.0))
    return list(zip(cells, _whole_numbers(wanted), strict=True))


def _class_of(example: Example, balance: str) -> str | None:
    if balance == "group":
        return example.group
    if balance == "answer":
        return fold(example.reference)
    return None


def _whole_numbers(wanted: Sequence[float]) -> list[int]:
    """Whole numbers near `wanted` with the sum that is nearest to theirs (largest remainders)."""
    counts = [int(value) for value in wanted]
    missing = round(sum(wanted)) - sum(counts)
    order = sorted(range(len(wanted)), key=lambda i: counts[i] - wanted[i])
    for place in order[:missing]:
        counts[place] += 1
    return counts
