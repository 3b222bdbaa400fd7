"""Tests of paired differences, their adjustment when there are several, and their power."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from tuneserve.bench.stats.bootstrap import IntArray
from tuneserve.bench.stats.intervals import falling_root


def mcnemar_exact(won: int, lost: int) -> float:
    """Two-sided exact McNemar p: the binomial probability of a split this uneven or more."""
    discordant = won + lost
    extreme = min(won, lost)
    tail = sum(math.comb(discordant, k) for k in range(extreme + 1))
    return min(1.0, 2 * tail / (1 << discordant))


def paired_p(net_wins: npt.ArrayLike, *, seed: int = 0, flips: int = 20_000) -> float:
    """Two-sided p that clusters' net wins are symmetric about zero (sign-flip test).

    One entry per cluster: its sum of tuned - base. Whole numbers (right or wrong answers) get the
    exact p, which is McNemar's where every cluster is one prompt; other scores get it from
    `flips` random sign assignments, the observed one counted among them.
    """
    net = np.asarray(net_wins, dtype=np.float64)
    if np.allclose(net, np.round(net), atol=1e-9):
        return _exact_flip_p(np.round(net).astype(np.int64))
    generator = np.random.default_rng(seed)
    observed = abs(float(net.sum())) * (1 - 1e-12)
    extreme = 0
    for first in range(0, flips, 1000):
        signs = generator.choice((-1.0, 1.0), size=(min(1000, flips - first), len(net)))
        extreme += int((np.abs(signs @ net) >= observed).sum())
    return (extreme + 1) / (flips + 1)


def _exact_flip_p(net: IntArray) -> float:
    """The distribution of the sum over all sign assignments, by convolution."""
    sizes = [abs(int(value)) for value in net if value]
    total = sum(sizes)
    # ways[s] = probability that the flipped sum is s - total.
    ways = np.zeros(2 * total + 1)
    ways[total] = 1.0
    for size in sizes:
        ways = 0.5 * (np.roll(ways, size) + np.roll(ways, -size))
    sums = np.abs(np.arange(-total, total + 1))
    return min(1.0, float(ways[sums >= abs(int(net.sum()))].sum()))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p-values (Holm 1979), in the order given."""
    order = np.argsort(p_values)
    adjusted = np.arange(len(p_values), 0, -1) * np.asarray(p_values, dtype=np.float64)[order]
    found = np.empty(len(p_values))
    found[order] = np.maximum.accumulate(np.minimum(1.0, adjusted))
    return found.tolist()


def smallest_detectable(
    discordant_share: float, pairs: float, confidence: float = 0.95, power: float = 0.8
) -> float:
    """The true difference that this many pairs would show with probability `power`.

    From the exact power of the exact McNemar test at the observed share of discordant pairs (more
    where the difference itself needs more); at least one prompt, 1 where no difference would be
    shown.
    """
    number = round(pairs)
    if number < 1:
        return 1.0

    def lacking(difference: float) -> float:
        share = max(discordant_share, difference)
        return power - mcnemar_power(difference, share, number, confidence)

    return max(1.0 / number, falling_root(lacking, 1e-9, 1.0))


def mcnemar_power(
    difference: float, discordant_share: float, pairs: int, confidence: float = 0.95
) -> float:
    """How probably the exact McNemar test of `pairs` pairs shows a true `difference`."""
    from scipy import stats

    # All numbers of discordant pairs with a probability that is not negligible.
    low, high = stats.binom.ppf([1e-9, 1 - 1e-9], pairs, discordant_share)
    discordant = np.arange(int(low), int(high) + 1)
    tail = (1 - confidence) / 2
    # `most`: the largest number of wins (or losses) at which the two-sided test rejects.
    most = stats.binom.ppf(tail, discordant, 0.5)
    most -= stats.binom.cdf(most, discordant, 0.5) >= tail
    lost_share = (1 - difference / discordant_share) / 2
    shown = stats.binom.cdf(most, discordant, lost_share)
    shown += stats.binom.cdf(most, discordant, 1 - lost_share)
    return float((stats.binom.pmf(discordant, pairs, discordant_share) * shown).sum())
