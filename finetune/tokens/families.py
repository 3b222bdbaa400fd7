"""Examples that share far more with a few others than with the rest: questions about one document,
answers of one conversation. In the same batch, what they share is computed once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tuneserve.finetune.tokens.encoder import Encoded
from tuneserve.finetune.tokens.prefix_tree import common_length

# What a family has in common beyond what it shares with others, as a share of an example: below
# this it isn't worth meeting the others less.
_LEAST_COMMON = 0.25


def families_of(examples: Sequence[Encoded], most: int) -> list[tuple[int, ...]]:
    """The families, as places of their examples: the largest groups of up to `most` examples that
    begin alike. (What more examples than that begin with, any batch shares.)"""
    order = sorted(range(len(examples)), key=lambda place: examples[place].input_ids)
    sorted_ids = [examples[place].input_ids for place in order]
    common = [0, *map(common_length, sorted_ids, sorted_ids[1:]), 0]
    found = []
    for first, last in _groups(common, len(order), most):
        inside = min(common[first + 1 : last])
        beyond = inside - max(common[first], common[last])
        longest = max(len(ids) for ids in sorted_ids[first:last])
        if beyond >= _LEAST_COMMON * longest:
            found.append(tuple(sorted(order[first:last])))
    return sorted(found)


def _groups(common: Sequence[int], count: int, most: int) -> Iterator[tuple[int, int]]:
    """The largest groups of 2 to `most` neighbours that share more with each other than with what
    is beside them, as half-open ranges. `common[n]` is what neighbours n - 1 and n share."""
    # Open groups: where each begins, and what its members share.
    open_groups: list[tuple[int, int]] = []
    inside: list[tuple[int, int]] = []
    for place in range(1, count + 1):
        first = place - 1
        while open_groups and open_groups[-1][1] > common[place]:
            first, _ = open_groups.pop()
            if place - first <= most:
                inside.append((first, place))
        if common[place] and (not open_groups or open_groups[-1][1] < common[place]):
            open_groups.append((first, common[place]))
    # A group comes after those that it holds.
    kept_from = count
    for first, last in reversed(inside):
        if first < kept_from:
            kept_from = first
            yield first, last
