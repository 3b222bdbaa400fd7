"""Intervals of accuracies, means and paired differences, clusters counted together; what decides
whether there is one, and how wide it is, those of perplexities share (perplexities.py).

What a function calls `ends` are arrays (low, high): scores may have leading axes (one for simulated
benchmarks), the last is prompts. `benchmarks/bench_coverage.py` measures how
often each interval holds the truth.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tuneserve.bench.stats.bootstrap import Bootstrap, Estimate, FloatArray
from tuneserve.bench.stats.proportions import Ends, proportion_ends, tango
from tuneserve.bench.stats.robust import KNEE, Spread, spread_of, unskewed
from tuneserve.bench.stats.wholeness import nearly_alone, nearly_whole

FEWEST = 3
"""Clusters below which nothing but right and wrong answers gets an interval: two differ by one
number, which says next to nothing about how far others would lie apart."""
FEW_SOURCES, LEAST_WORTH = 4, 1.3
"""So few clusters, two or more, get no interval where one has nearly all: where they are worth
fewer clusters of one size than this (Kish's sum squared over sum of squares; 1.2 for 100 + 10)."""
NEAR = 0.05
"""Distance between scores, of 1, that is half a difference of note (see `mean_ends`)."""
MANY = 0.6
"""Share of unusual scores from which on no score is usual (`mean_ends`)."""
FEW = 4
"""Unusual scores that are about as many as say nothing of how large others are (`mean_ends`)."""


def accuracy(scores: npt.ArrayLike, bootstrap: Bootstrap) -> Estimate:
    """Mean score with its interval: for right or wrong that of a proportion (`right_ends`), else
    that of a mean of bounded scores, which needs FEWEST clusters (`mean_ends`)."""
    values = np.asarray(scores, dtype=np.float64)
    value = float(values.mean())
    if why_not := lopsided(bootstrap.sizes, bootstrap):
        return Estimate(value, why_not=why_not)
    if is_binary(values):
        return _estimate(value, right_ends(values, bootstrap))
    if bootstrap.count < FEWEST:
        return Estimate(value, why_not=bootstrap.described)
    return _estimate(value, mean_ends(values, bootstrap, bounds=(0.0, 1.0)))


def lopsided(amounts: FloatArray, bootstrap: Bootstrap) -> str:
    """Why few clusters with these `amounts` (prompts or tokens), [clusters], get no interval: one
    has nearly all, and what the others say of how far clusters lie apart is next to nothing. ''
    where they do."""
    shares = amounts / amounts.sum()
    if not 2 <= len(shares) <= FEW_SOURCES or 1 / float((shares**2).sum()) >= LEAST_WORTH:
        return ""
    return f"{bootstrap.described}, one of which has {100 * shares.max():.0f} % of all"


def right_ends(values: FloatArray, bootstrap: Bootstrap) -> Ends:
    """Interval of the share of right answers, [..., prompts]: `proportion_ends`.

    With clusters the number of trials is the effective one (Korn & Graubard 1998, Survey
    Methodology 24:193): prompts that succeed and fail together count for fewer. Where there are
    FEWEST clusters, the interval is widened towards that of a mean (`mean_ends`) by how few prompts
    stand alone.
    """
    size = effective_size(values, bootstrap)
    ends = proportion_ends(values.mean(-1), size, bootstrap.confidence)
    if not bootstrap.clustered or bootstrap.count < FEWEST:
        return ends
    return _widened(ends, mean_ends(values, bootstrap, bounds=(0.0, 1.0)), bootstrap)


def effective_size(values: FloatArray, bootstrap: Bootstrap) -> FloatArray:
    """How many independent prompts these clustered ones ([..., prompts]) are worth; from 1 to
    their number.

    The ratio of the variance of the mean if prompts were independent to its cluster-robust
    variance (`spread_of`), times Korn & Graubard's correction for few clusters, with the degrees of
    freedom of that variance. Where the values don't vary
    at all it is the number of clusters.
    """
    n, count = values.shape[-1], bootstrap.count
    if count == n or count == 1:
        return np.full(values.shape[:-1], float(count))
    independent = values.var(-1) / n
    spread = spread_of(bootstrap.by_cluster(values), bootstrap.sizes)
    tails = student_quantile(bootstrap.confidence, n - 1) / spread.half_width(bootstrap.confidence)
    with np.errstate(divide="ignore", invalid="ignore"):
        size = np.clip(n * independent / spread.variance * tails**2, 1.0, n)
    found: FloatArray = np.where(independent == 0, count, np.where(spread.variance == 0, n, size))
    return found


def mean_ends(
    values: FloatArray,
    bootstrap: Bootstrap,
    *,
    bounds: tuple[float, float],
    usual: float | None = None,
) -> Ends:
    """Interval of the mean of scores within `bounds`, [..., prompts]; clusters are FEWEST or more.

    Student's t with the cluster-robust standard error of `spread_of`, made as wide as its skewness
    asks (Hall 1992): the hull of both. Most scores may be equal (`usual`; None: the median), so
    that the others were hardly or not at all seen. Two more clusters are then supposed, as Agresti
    & Caffo (2000, Am Stat 54:280) do for proportions: one above and one below the usual score, at
    the root mean square of the distances seen and, up to FEW of them, of the largest possible one:
    so few don't say how large others are. They lose weight as more unusual scores are seen: 2, 1,
    0.5 of them for 0, 5, 15; and where more than MANY of all are unusual there is no usual score
    to speak of: what they add then only keeps the variance from being less than they alone make it.
    Scores within NEAR of the usual one hardly count as seen: all prompts may differ a little, and a
    few by much.
    """
    spread, variance, skewness = mean_spread(values, bootstrap, usual=usual)
    low, high = hull(spread, np.sqrt(variance), skewness, bootstrap.confidence)
    return np.maximum(low, bounds[0]), np.minimum(high, bounds[1])


def mean_spread(
    values: FloatArray, bootstrap: Bootstrap, *, usual: float | None
) -> tuple[Spread, FloatArray, FloatArray]:
    """The spread of a mean of scores, and its variance and skewness with the clusters supposed
    beside those seen (see `mean_ends`)."""
    sums, sizes = bootstrap.by_cluster(values), bootstrap.sizes
    spread = spread_of(sums, sizes)
    means = sums / sizes
    centre = np.median(means, -1, keepdims=True) if usual is None else np.asarray([usual])
    distances = np.abs(means - centre)
    unusual = _unusual(np.abs(values - centre))
    seen = unusual.sum(-1)
    largest = 1 / (1 + (seen / FEW) ** 6)  # weight that the largest possible distance, 1, has
    weights = np.minimum(bootstrap.by_cluster(unusual), 1.0)
    square = ((weights * distances**2).sum(-1) + largest) / (weights.sum(-1) + largest)
    supposed = 2 / (1 + seen / 5) * square * (spread.shares**2).mean(-1)
    few = 1 / (1 + (seen / values.shape[-1] / MANY) ** 8)
    variance = np.maximum(spread.variance + few * supposed, supposed)
    return spread, variance, spread.skewness * (spread.variance / variance) ** 1.5


def _unusual(distances: FloatArray) -> FloatArray:
    """How far a score at this distance from the usual one counts as another: not at 0, half at
    NEAR, 1 far beyond. Scores that all differ a little say nothing of those that differ much."""
    power = (distances / NEAR) ** 8
    found: FloatArray = power / (1 + power)
    return found


def paired_difference(tuned: npt.ArrayLike, base: npt.ArrayLike, bootstrap: Bootstrap) -> Estimate:
    """Mean of tuned - base over prompts, each result in [0, 1], with its interval
    (`difference_ends`), which for graded scores needs FEWEST clusters. Never of zero width."""
    differences = np.subtract(tuned, base, dtype=np.float64)
    value = float(differences.mean())
    if why_not := lopsided(bootstrap.sizes, bootstrap):
        return Estimate(value, why_not=why_not)
    whole = is_binary(tuned) and is_binary(base)
    if not whole and bootstrap.count < FEWEST:
        return Estimate(value, why_not=bootstrap.described)
    return _estimate(value, difference_ends(differences, bootstrap))


def difference_ends(differences: FloatArray, bootstrap: Bootstrap) -> Ends:
    """Interval of the mean difference, [..., prompts].

    For right or wrong (-1, 0, 1) Tango's score interval, with clusters that of the effective number
    of pairs, and no shorter than the interval of a mean (`mean_ends`). For graded scores that of a
    mean. Between them both count, by how `nearly_whole` the differences are and how `nearly_alone`
    the prompts stand. With fewer than FEWEST clusters Tango's alone.
    """
    size = effective_size(differences, bootstrap)
    won, lost = (np.maximum(sign * differences, 0.0).mean(-1) * size for sign in (1, -1))
    ends = tango(won, lost, size, bootstrap.confidence)
    if bootstrap.count < FEWEST:
        return ends
    of_mean = mean_ends(differences, bootstrap, bounds=(-1.0, 1.0), usual=0.0)
    whole = nearly_whole(differences)
    low, high = (
        whole * counted + (1 - whole) * mean for counted, mean in zip(ends, of_mean, strict=True)
    )
    return _widened((low, high), of_mean, bootstrap)


def _widened(ends: Ends, of_mean: Ends, bootstrap: Bootstrap) -> Ends:
    """An interval as wide as that of the mean where no prompts stand alone, and as it is where all
    do (`nearly_alone`): one pair of prompts of one source is no step."""
    shared = 1 - nearly_alone(bootstrap)
    return (
        ends[0] - shared * np.maximum(ends[0] - of_mean[0], 0.0),
        ends[1] + shared * np.maximum(of_mean[1] - ends[1], 0.0),
    )


def hull(
    spread: Spread,
    error: FloatArray,
    skewness: FloatArray,
    confidence: float,
    knee: float = KNEE,
) -> Ends:
    """Student's interval and the one without the skewness together. A small sample's skewness is
    less than that of what it is drawn from, so it is enlarged; four clusters say nothing of it."""
    t = spread.half_width(confidence)
    count = spread.shares.shape[-1]
    if count < 5:
        return spread.value - t * error, spread.value + t * error
    skewness = skewness * (1 + 10 / count)
    down = np.maximum(t, unskewed(t, skewness, knee))
    up = np.maximum(t, -unskewed(-t, skewness, knee))
    return spread.value - down * error, spread.value + up * error


def is_binary(values: npt.ArrayLike) -> bool:
    """Are all values 0 or 1?"""
    return bool(np.isin(values, (0.0, 1.0)).all())


def _estimate(value: float, ends: Ends) -> Estimate:
    low, high = (float(end) for end in ends)
    return Estimate(value, min(low, value), max(high, value))


def student_quantile(confidence: float, freedom: int) -> float:
    """How many standard errors Student's interval reaches to either side."""
    # It takes half a second, and most commands read reports without one.
    from scipy import stats

    return float(stats.t.ppf((1 + confidence) / 2, freedom))
