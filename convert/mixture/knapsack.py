"""One option of each item, so that the harm is least and the sizes fit: a multiple-choice knapsack.

Solved exactly by dynamic programming over sizes in units of a small part of the limit (rounded up);
what is left over goes to the best exchanges.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np

from tuneserve.errors import UsageError

UNITS = 20_000


@dataclass(frozen=True)
class Option:
    """A type that a tensor may have: its bytes, and what it costs (any unit)."""

    type: str
    bytes: int
    harm: float


def choose_options(items: Sequence[Sequence[Option]], limit: int) -> list[Option]:
    """One option of each item, of at most `limit` bytes in all.

    Raises UsageError if the smallest ones are larger.
    """
    smallest = sum(min(option.bytes for option in options) for options in items)
    if smallest > limit:
        raise UsageError(
            f"the smallest types take {smallest:,} bytes, {limit:,} are allowed", where="size_limit"
        )
    # Nothing above the largest options can be used.
    largest = sum(max(option.bytes for option in options) for options in items)
    chosen = _solved(items, min(limit, largest))
    return _filled(items, chosen, limit)


def _solved(items: Sequence[Sequence[Option]], limit: int) -> list[Option]:
    """By dynamic programming: `best[u]` is the least harm of the items so far within u units."""
    least = [min(options, key=lambda option: option.bytes) for options in items]
    spare = limit - sum(option.bytes for option in least)
    # Sizes beyond the smallest options', so that only differences are rounded.
    unit = max(1, spare // UNITS)
    room = spare // unit
    best = np.zeros(room + 1)
    picks = np.zeros((len(items), room + 1), dtype=np.int8)
    costs = [
        [ceil((option.bytes - low.bytes) / unit) for option in options]
        for options, low in zip(items, least, strict=True)
    ]
    for number, options in enumerate(items):
        totals = np.full((len(options), room + 1), np.inf)
        for row, (option, cost) in enumerate(zip(options, costs[number], strict=True)):
            if cost <= room:
                totals[row, cost:] = best[: room + 1 - cost] + option.harm
        picks[number] = totals.argmin(axis=0)
        best = totals.min(axis=0)
    chosen: list[Option] = []
    at = room
    for number in reversed(range(len(items))):
        pick = int(picks[number, at])
        chosen.append(items[number][pick])
        at -= costs[number][pick]
    return chosen[::-1]


def _filled(
    items: Sequence[Sequence[Option]], chosen: Sequence[Option], limit: int
) -> list[Option]:
    """Exchange for better options while they fit, the most harm saved per byte first."""
    result = list(chosen)
    left = limit - sum(option.bytes for option in result)
    while True:
        better = [
            ((now.harm - option.harm) / max(1, option.bytes - now.bytes), number, option)
            for number, (now, options) in enumerate(zip(result, items, strict=True))
            for option in options
            if option.harm < now.harm and option.bytes - now.bytes <= left
        ]
        if not better:
            return result
        _, number, option = max(better, key=lambda found: found[0])
        left -= option.bytes - result[number].bytes
        result[number] = option
