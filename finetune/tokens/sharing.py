"""How much of what an epoch computes is saved where shared beginnings are computed once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from tuneserve.finetune.tokens.encoder import Encoded
from tuneserve.finetune.tokens.epoch import EpochSampler, LengthGroupedSampler
from tuneserve.finetune.tokens.prefix_tree import tree_size

# Batches of an epoch that are looked at: what they compute tells what the others do.
_LOOKED_AT = 256
# The longest examples, in tokens, whose attention is computed by chunks: each chunk has a copy of
# the keys and values that it sees, which layers keep.
LONGEST_CHUNKED = 512


@dataclass(frozen=True)
class RowCosts:
    """What a batch costs, in units of what a token costs outside of attention. `pair`: what a pair
    of tokens in one row costs in attention. Rows have a multiple of `unit` tokens.

    `padding_free` (a GPU): examples one by one are laid end to end in place of being padded, and
    attention over a tree leaves out what is masked.
    """

    pair: float
    unit: int
    padding_free: bool = False

    def of(self, lengths: Sequence[int]) -> float:
        """The cost of examples of so many tokens one by one, padding included."""
        if self.padding_free:
            return sum(length * (1 + self.pair * length) for length in lengths)
        length = self.padded(max(lengths))
        return len(lengths) * length * (1 + self.pair * length)

    def of_tree(self, tree: int, lengths: Sequence[int]) -> float:
        """The cost of a tree of `tree` tokens with examples of so many: attention is over the pairs
        of its row, or by chunks over those of the examples where these are fewer."""
        rows, longest = len(lengths), max(lengths)
        if self.padding_free:
            return self.padded(tree) * (1 + self.pair * longest)
        pairs = self.padded(tree) ** 2
        if longest <= LONGEST_CHUNKED:
            pairs = min(pairs, rows * self.padded(longest) ** 2)
        return self.padded(tree) + self.pair * pairs

    def padded(self, length: int) -> int:
        return -(-length // self.unit) * self.unit

    def is_less(self, tree: int, lengths: Sequence[int]) -> bool:
        """Is a tree of `tree` tokens cheaper than its examples of so many one by one?"""
        return self.of_tree(tree, lengths) < self.of(lengths)

    def tokens(self, lengths: Sequence[int]) -> int:
        """What is computed of the examples one by one, padding included."""
        if self.padding_free:
            return sum(lengths)
        return len(lengths) * self.padded(max(lengths))


@dataclass(frozen=True)
class Computed:
    """What an epoch computes: its `cost` and `plain_cost`, that without sharing; the tokens of the
    largest batch and of the mean one, padding included."""

    cost: float
    plain_cost: float
    most_tokens: int
    mean_tokens: float

    @property
    def saved(self) -> float:
        """The share of the plain cost that is saved."""
        return 1 - self.cost / self.plain_cost


@dataclass(frozen=True)
class Sharing:
    """The first epoch of a training whose batches share beginnings where that is cheaper.

    `per_step` examples make an optimizer step; those of one of the `families` meet in it.
    """

    examples: Sequence[Encoded]
    epochs: EpochSampler
    per_step: int
    seed: int
    costs: RowCosts
    families: Sequence[Sequence[int]] = ()
    _computed: dict[int, Computed] = field(default_factory=dict, init=False, repr=False)

    def computed(self, size: int) -> Computed:
        """What is computed where batches have `size` examples; reckoned once for each size."""
        if size not in self._computed:
            self._computed[size] = self._reckoned(size)
        return self._computed[size]

    def _reckoned(self, size: int) -> Computed:
        cost = plain = 0.0
        tokens: list[int] = []
        for batch in self._batches(size):
            lengths = [len(example.input_ids) for example in batch]
            tree = tree_size((example.input_ids, example.labels) for example in batch)
            one_by_one = self.costs.of(lengths)
            plain += one_by_one
            if tree and self.costs.is_less(tree, lengths):
                cost += self.costs.of_tree(tree, lengths)
                tokens.append(self.costs.padded(tree))
            else:
                cost += one_by_one
                tokens.append(self.costs.tokens(lengths))
        return Computed(cost, plain, max(tokens), sum(tokens) / len(tokens))

    def _batches(self, size: int) -> Iterator[list[Encoded]]:
        order = self._order
        starts = range(0, len(order), size)
        # The first batch has the longest example.
        for start in starts[:: max(1, len(starts) // _LOOKED_AT)]:
            yield [self.examples[place] for place in order[start : start + size]]

    @cached_property
    def _order(self) -> list[int]:
        lengths = [len(example.input_ids) for example in self.examples]
        return list(
            LengthGroupedSampler(lengths, self.epochs, self.per_step, self.seed, self.families)
        )
