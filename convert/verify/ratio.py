"""A ratio of two sums over examples, with an interval that holds when the denominator is small."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tuneserve.arrays import Doubles

# Below this a spread can't be told from so few values.
FEWEST_CLUSTERS = 5


@dataclass(frozen=True)
class Ratio:
    """`value` with its 95 % interval."""

    value: float
    low: float
    high: float


def ratio(numerator: Doubles, denominator: Doubles, clusters: Sequence[object]) -> Ratio | None:
    """sum(numerator) / sum(denominator) over examples, those of a cluster taken together.

    Fieller's interval (1954): the ratios r for which the mean of numerator - r * denominator is not
    told from 0 by a t-test. None where the sum of the denominator itself is not told to be above 0,
    which is where no interval of the ratio is bounded.
    """
    from scipy import stats

    places: dict[object, int] = {}
    numbers = [places.setdefault(cluster, len(places)) for cluster in clusters]
    count = len(places)
    if count < FEWEST_CLUSTERS:
        return None
    y, x = (np.bincount(numbers, weights=column) for column in (numerator, denominator))
    square = float(stats.t.ppf(0.975, count - 1)) ** 2 / count
    (yy, xy), (_, xx) = square * np.cov(y, x)
    a, b, c = x.mean() ** 2 - xx, x.mean() * y.mean() - xy, y.mean() ** 2 - yy
    if a <= 0 or x.mean() <= 0:
        return None
    width = float(np.sqrt(max(b * b - a * c, 0.0)))
    return Ratio(float(y.mean() / x.mean()), float(b - width) / a, float(b + width) / a)


def cluster_of(source: str | None, number: int) -> object:
    """Examples of one source are one cluster; without a source each is its own."""
    return ("alone", number) if source is None else source
