"""The order in which examples are trained on."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

from tuneserve.finetune.tokens.draw import EpochDraw

# Examples of a batch come from this many batches' worth of neighbours in the shuffled order:
# enough to find some of like length, and small beside an epoch.
_WINDOW_BATCHES = 50


class LengthGroupedOrder:
    """A sampler: an epoch's examples, shuffled, in batches of examples of like length.

    `lengths` are those of the training set, in tokens; which of it an epoch visits, `draw` says.

    Padding a batch to its longest example is wasted work. The order depends on seed and epoch
    only, so that a resumed run sees the examples it would have seen. The batch with the longest
    example comes first: if memory does not suffice, that shows in the first step.
    """

    def __init__(self, lengths: Sequence[int], draw: EpochDraw, batch_size: int, seed: int) -> None:
        self.lengths = lengths
        self.draw = draw
        self.batch_size = batch_size
        self.seed = seed
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.draw)

    def set_epoch(self, epoch: int) -> None:
        """Called by the data loader at the start of each epoch."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        shuffle = random.Random(f"{self.seed}/{self.epoch}")  # noqa: S311 - not for secrets
        order = self.draw.places(self.epoch)
        shuffle.shuffle(order)
        batches: list[list[int]] = []
        window = self.batch_size * _WINDOW_BATCHES
        for start in range(0, len(order), window):
            near = sorted(order[start : start + window], key=lambda i: self.lengths[i])
            batches += [near[i : i + self.batch_size] for i in range(0, len(near), self.batch_size)]
        # A short batch must be the last one, or it would shift the borders of those after it.
        whole = [batch for batch in batches if len(batch) == self.batch_size]
        short = [i for batch in batches if len(batch) < self.batch_size for i in batch]
        shuffle.shuffle(whole)
        longest = max(range(len(whole)), key=lambda b: self._longest(whole[b]), default=None)
        if longest is not None:
            whole[0], whole[longest] = whole[longest], whole[0]
        yield from (i for batch in whole for i in batch)
        yield from short

    def _longest(self, batch: Sequence[int]) -> int:
        return max(self.lengths[i] for i in batch)
