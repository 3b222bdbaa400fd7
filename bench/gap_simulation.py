"""Simulated benchmarks of groups whose gap is known: is "widened" said only where it widens?

Each group has a share of right answers under either model, the same for all its prompts; prompts of
one source get the tuned model's answers right together.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tuneserve.bench.stats.bootstrap import Bootstrap
from tuneserve.bench.stats.gaps import GroupScores, compare_gaps


@dataclass(frozen=True)
class GapDesign:
    """Each group's share of right answers under base and tuned; how many `prompts` a group has, and
    how many share a source."""

    base: tuple[float, ...]
    tuned: tuple[float, ...]
    prompts: int
    per_source: int = 1

    @property
    def widens(self) -> bool:
        return bool(np.ptp(self.tuned) - np.ptp(self.base) > 1e-9)


def share_widened(
    design: GapDesign, *, benchmarks: int, resamples: int, seed: int
) -> tuple[float, float]:
    """In which share of benchmarks a widened gap is shown, and in which the interval alone would
    have shown one."""
    generator = np.random.default_rng(seed)
    shown = by_interval = 0
    for number in range(benchmarks):
        found = compare_gaps(_draw(generator, design, resamples, seed + number))
        shown += found.widened
        by_interval += found.change.low > 0
    return shown / benchmarks, by_interval / benchmarks


def _draw(
    generator: np.random.Generator, design: GapDesign, resamples: int, seed: int
) -> GroupScores:
    count = len(design.base)
    groups = np.repeat(np.arange(count), design.prompts)
    clusters = np.arange(len(groups)) // design.per_source
    luck = generator.random(clusters[-1] + 1)[clusters]
    return GroupScores(
        base=(generator.random(len(groups)) < np.array(design.base)[groups]).astype(np.float64),
        tuned=(luck < np.array(design.tuned)[groups]).astype(np.float64),
        groups=groups,
        names=[f"group {number}" for number in range(count)],
        bootstrap=Bootstrap(clusters, resamples=resamples, seed=seed),
    )
