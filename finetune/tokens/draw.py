"""Which examples an epoch is made of.

An epoch need not be every example once: a file may count twice or half, groups may be balanced,
general examples mixed in, and an instruction worded otherwise each time. All of it is the same
thing: streams of examples, of which so many are drawn for each epoch.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Stream:
    """Examples drawn alike: `items[i]` holds the places of example i's wordings in the training
    set, and `per_epoch` examples are drawn for each epoch."""

    items: tuple[tuple[int, ...], ...]
    per_epoch: int


class EpochDraw:
    """The places in the training set that an epoch visits, each as often as it is drawn.

    Examples are drawn without replacement: none comes again before all others of its stream have
    come, and no wording before the example's others. What an epoch draws depends on the seed and
    its number alone, so that a training that goes on draws what it would have drawn.
    """

    def __init__(self, streams: Sequence[Stream], seed: int) -> None:
        self.streams = [stream for stream in streams if stream.items and stream.per_epoch]
        self.seed = seed

    def __len__(self) -> int:
        """Examples in an epoch."""
        return sum(stream.per_epoch for stream in self.streams)

    def places(self, epoch: int) -> list[int]:
        """The places drawn for an epoch (counted from 0), stream by stream."""
        return [
            place
            for number, stream in enumerate(self.streams)
            for place in self._drawn(number, stream, epoch)
        ]

    def _drawn(self, number: int, stream: Stream, epoch: int) -> Iterator[int]:
        """The stream is an endless row of whole passes over it, each shuffled; an epoch is the
        next `per_epoch` of that row."""
        first = epoch * stream.per_epoch
        last = first + stream.per_epoch
        size = len(stream.items)
        for turn in range(first // size, (last - 1) // size + 1):
            order = _shuffled(stream.items, self.seed, number, turn)
            for item in order[max(first - turn * size, 0) : last - turn * size]:
                again, wording = divmod(turn, len(item))
                yield _shuffled(item, self.seed, "wordings", item[0], again)[wording]


def _shuffled(values: Sequence[T], *key: object) -> Sequence[T]:
    if len(values) == 1:
        return values
    shuffle = random.Random("/".join(map(str, key)))  # noqa: S311 - not for secrets
    return shuffle.sample(values, len(values))
