"""Intervals of one proportion and of the difference of two paired ones, prompts independent.

Ends are arrays (low, high); counts and shares may have any axes (simulated benchmarks).
"""

from __future__ import annotations

from collections.abc import Callable
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from tuneserve.bench.stats.bootstrap import Estimate, FloatArray

Ends = tuple[FloatArray, FloatArray]


def wilson(successes: float, trials: float, confidence: float = 0.95) -> Estimate:
    """Wilson's score interval for a proportion (Wilson 1927, JASA 22:209).

    `trials` may be an effective, fractional number. Raises ValueError without trials.
    """
    if trials <= 0:
        raise ValueError("a proportion needs at least one trial")
    share = successes / trials
    low, high = wilson_ends(np.asarray(share), np.asarray(trials), confidence)
    return Estimate(share, min(float(low), share), max(float(high), share))


def wilson_ends(share: FloatArray, trials: FloatArray, confidence: float) -> Ends:
    """Wilson's interval of proportions, [...]."""
    z = normal_quantile(confidence)
    centre = (share + z * z / (2 * trials)) / (1 + z * z / trials)
    spread = z * np.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    half = spread / (1 + z * z / trials)
    return np.maximum(0.0, centre - half), np.minimum(1.0, centre + half)


def proportion_ends(share: FloatArray, trials: FloatArray, confidence: float) -> Ends:
    """Interval of proportions, [...]: the hull of Wilson's, which is short of its level near 0 and
    1 (83 % at worst), and of Clopper & Pearson's with the mid-p value (Lancaster 1961, JASA
    56:223), which is short of it elsewhere. `trials` may be fractional."""
    from scipy import special

    right, wrong = share * trials, (1 - share) * trials

    def beyond(p: FloatArray, more: FloatArray, less: FloatArray) -> FloatArray:
        """The mid-p probability of `more` right ones or above; a binomial tail as a beta's."""
        tail: FloatArray = special.betainc(np.maximum(more, 1e-300), less + 1, p)
        above: FloatArray = special.betainc(more + 1, np.maximum(less, 1e-300), p)
        return (tail + above) / 2

    alpha = (1 - confidence) / 2
    zeros, ones = np.zeros_like(share), np.ones_like(share)
    low = falling_root(lambda p: alpha - beyond(p, right, wrong), zeros, ones)
    high = falling_root(lambda p: beyond(1 - p, wrong, right) - alpha, zeros, ones)
    wilsons = wilson_ends(share, trials, confidence)
    low = np.where(right > 0, low, 0.0)
    high = np.where(wrong > 0, high, 1.0)
    return np.minimum(wilsons[0], low), np.maximum(wilsons[1], high)


def tango(
    won: npt.ArrayLike, lost: npt.ArrayLike, pairs: npt.ArrayLike, confidence: float = 0.95
) -> Ends:
    """Score interval for the difference of two paired proportions (Tango 1998, Stat Med 17:891).

    `won` and `lost` count the pairs that only the first and only the second has right.
    """
    won, lost, pairs = (np.asarray(count, dtype=np.float64) for count in (won, lost, pairs))
    z = normal_quantile(confidence)
    estimate = (won - lost) / pairs

    def score(difference: FloatArray) -> FloatArray:
        """The score statistic at a true `difference`; it falls as `difference` grows."""
        linear = -won - lost + (2 * pairs - won + lost) * difference
        constant = -lost * difference * (1 - difference)
        root = np.sqrt(np.maximum(linear * linear - 8 * pairs * constant, 0.0))
        lost_share = (root - linear) / (4 * pairs)
        variance = pairs * (2 * lost_share + difference * (1 - difference))
        distance = won - lost - pairs * difference
        with np.errstate(divide="ignore", invalid="ignore"):
            known = distance / np.sqrt(np.maximum(variance, 0.0))
        found: FloatArray = np.where(
            variance > 0, known, np.where(distance == 0, 0.0, np.copysign(np.inf, distance))
        )
        return found

    return (
        falling_root(lambda d: score(d) - z, np.full_like(estimate, -1.0), estimate),
        falling_root(lambda d: score(d) + z, estimate, np.full_like(estimate, 1.0)),
    )


def falling_root(
    function: Callable[[FloatArray], FloatArray], low: npt.ArrayLike, high: npt.ArrayLike
) -> FloatArray:
    """The zeros of falling functions in [low, high], elementwise; the nearer end where there is
    none."""
    first, last = np.asarray(low, np.float64), np.asarray(high, np.float64)
    below, above = function(first) <= 0, function(last) >= 0
    left, right = first, last
    for _ in range(80):
        middle = (left + right) / 2
        positive = function(middle) > 0
        left, right = np.where(positive, middle, left), np.where(positive, right, middle)
    found: FloatArray = np.where(below, first, np.where(above, last, (left + right) / 2))
    return found


def normal_quantile(confidence: float) -> float:
    """z such that a normal variable lies within z standard deviations with this probability."""
    return NormalDist().inv_cdf((1 + confidence) / 2)
