"""A batch's examples as a tree: what several of them begin with stands in it once.

The examples, cut behind their last trained token, are sorted by their tokens. Then each one shares
its longest beginning with the one before it, and adds what follows to one row of tokens. This is
the tree (trie) of the examples, its nodes laid end to end in depth-first order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tuneserve.finetune.tokens.encoder import IGNORED

Tokens = tuple[Sequence[int], Sequence[int]]
"""Token ids and labels of an example."""


@dataclass(frozen=True)
class PrefixTree:
    """One row of tokens. `ids`, `positions` and `ends` have an entry for each of its places.

    `positions` count from the beginning of the examples. Place i is seen from the places i to
    `ends[i]` - 1: its own and those of all that continues it. The loss is the sum over n of
    `weights[n]` times the negative log-likelihood of token `targets[n]` after place `rows[n]`:
    where examples branch, a place has several targets, and a token that several examples train
    weighs as often.
    """

    ids: list[int]
    positions: list[int]
    ends: list[int]
    rows: list[int]
    targets: list[int]
    weights: list[int]

    def __len__(self) -> int:
        return len(self.ids)


def prefix_tree(examples: Iterable[Tokens]) -> PrefixTree:
    """The tree of these examples. It is empty if none of them trains a token."""
    ids: list[int] = []
    positions: list[int] = []
    ends: list[int] = []
    pairs: Counter[tuple[int, int]] = Counter()
    before: Sequence[int] = ()
    path: list[int] = []  # the places of the example before
    for tokens, labels in sorted(map(_needed, examples)):
        shared = common_length(before, tokens)
        for place in path[shared:]:
            ends[place] = len(ids)
        first, added = len(ids), len(tokens) - shared
        path = [*path[:shared], *range(first, first + added)]
        ids += tokens[shared:]
        positions += range(shared, len(tokens))
        ends += [0] * added
        before = tokens
        pairs.update((path[place], label) for place, label in enumerate(labels) if label != IGNORED)
    for place in path:
        ends[place] = len(ids)
    return PrefixTree(
        ids, positions, ends, [row for row, _ in pairs], [target for _, target in pairs],
        list(pairs.values()),
    )  # fmt: skip


def _needed(example: Tokens) -> tuple[list[int], list[int]]:
    """The tokens that predict a trained one, and those before them; with what each one predicts."""
    ids, labels = example
    # The first token is predicted from nothing.
    last = max((n for n in range(1, len(labels)) if labels[n] != IGNORED), default=0)
    return list(ids[:last]), list(labels[1 : last + 1])


def tree_size(examples: Iterable[Tokens]) -> int:
    """The places of the examples' tree, without building it."""
    size = 0
    before: Sequence[int] = ()
    for tokens, _ in sorted(map(_needed, examples)):
        size += len(tokens) - common_length(before, tokens)
        before = tokens
    return size


def common_length(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens both begin with."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
