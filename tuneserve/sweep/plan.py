"""What is asked of a sweep."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tuneserve.settings import Recipe
from tuneserve.sweep.space import Axis, Tables, combinations, own_values


@dataclass(frozen=True)
class Sweep:
    """What is asked for: a recipe's `tables` as written and all its settings, what is varied, how
    many trials there are to be; `prune`: end those early that others outdo; `keep`: leave the
    adapters and checkpoints of all of them."""

    name: str
    tables: Tables
    recipe: Recipe
    axes: Sequence[Axis]
    trials: int
    prune: bool = True
    keep: bool = False

    @property
    def grid(self) -> bool:
        """Can every combination be tried?"""
        count = combinations(self.axes)
        return count is not None and count <= self.trials

    @property
    def total(self) -> int:
        """Trials there will be: of a grid every combination, and the recipe as it is."""
        count = combinations(self.axes)
        if count is None or not self.grid:
            return self.trials
        own = own_values(self.axes, self.recipe)
        among = all(axis.holds(own[axis.key]) for axis in self.axes)
        return count if among else count + 1
