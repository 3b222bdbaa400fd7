"""Intervals of proportions, paired differences and perplexities, clusters counted together."""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from tuneserve.bench.stats.bootstrap import Bootstrap, Estimate, FloatArray


def wilson(successes: float, trials: float, confidence: float = 0.95) -> Estimate:
    """Wilson's score interval for a proportion (Wilson 1927, JASA 22:209).

    `trials` may be an effective, fractional number. Raises ValueError without trials.
    """
    if trials <= 0:
        raise ValueError("a proportion needs at least one trial")
    z = normal_quantile(confidence)
    share = successes / trials
    centre = (share + z * z / (2 * trials)) / (1 + z * z / trials)
    spread = z * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    half = spread / (1 + z * z / trials)
    return Estimate(share, max(0.0, centre - half), min(1.0, centre + half))


def accuracy(scores: npt.ArrayLike, bootstrap: Bootstrap) -> Estimate:
    """Mean score with its interval: Wilson's for right or wrong, else the clustered bootstrap's.

    With clusters Wilson's number of trials is the effective one (Korn & Graubard 1998, Survey
    Methodology 24:193): prompts that succeed and fail together count for fewer.
    """
    values = np.asarray(scores, dtype=np.float64)
    if not is_binary(values):
        return bootstrap.mean(values)
    trials = effective_size(values, bootstrap)
    return wilson(float(values.mean()) * trials, trials, bootstrap.confidence)


def effective_size(values: FloatArray, bootstrap: Bootstrap) -> float:
    """How many independent prompts these clustered ones are worth; at most len(values).

    The ratio of the variance of the mean if prompts were independent to its cluster-robust
    variance, times Korn & Graubard's correction for few clusters. Where the values don't vary
    at all it is the number of clusters.
    """
    n, count = len(values), bootstrap.count
    if count == n:
        return float(n)
    if count == 1:
        return 1.0
    deviations = values - values.mean()
    independent = float((deviations**2).sum()) / n**2
    per_cluster = np.bincount(bootstrap.clusters, weights=deviations, minlength=count)
    robust = float((per_cluster**2).sum()) / n**2 * count / (count - 1)
    if independent == 0.0:
        return float(count)
    if robust == 0.0:
        return float(n)
    confidence = bootstrap.confidence
    tails = _student_quantile(confidence, n - 1) / _student_quantile(confidence, count - 1)
    return max(1.0, min(float(n), n * independent / robust * tails**2))


def paired_difference(tuned: npt.ArrayLike, base: npt.ArrayLike, bootstrap: Bootstrap) -> Estimate:
    """Mean of tuned - base over prompts, each result in [0, 1], with a bootstrap interval.

    The percentile bootstrap over clusters is too short where few prompts differ (of no width
    where none does). For right-or-wrong results the interval is made at least as wide as Tango's
    score interval, which has no such gap. For graded scores there is no such bound: distrust an
    interval that rests on few differing prompts.
    """
    differences = np.subtract(tuned, base, dtype=np.float64)
    found = bootstrap.mean(differences)
    if not (is_binary(tuned) and is_binary(base)):
        return found
    size = effective_size(differences, bootstrap)
    won = float((differences > 0).mean()) * size
    lost = float((differences < 0).mean()) * size
    low, high = tango(won, lost, size, bootstrap.confidence)
    return Estimate(found.value, min(found.low, low), max(found.high, high))


def tango(won: float, lost: float, pairs: float, confidence: float = 0.95) -> tuple[float, float]:
    """Score interval for the difference of two paired proportions (Tango 1998, Stat Med 17:891).

    `won` and `lost` count the pairs that only the first and only the second has right.
    """
    z = normal_quantile(confidence)
    estimate = (won - lost) / pairs

    def score(difference: float) -> float:
        """The score statistic at a true `difference`; it falls as `difference` grows."""
        linear = -won - lost + (2 * pairs - won + lost) * difference
        constant = -lost * difference * (1 - difference)
        root = math.sqrt(max(linear * linear - 8 * pairs * constant, 0.0))
        lost_share = (root - linear) / (4 * pairs)
        variance = pairs * (2 * lost_share + difference * (1 - difference))
        distance = won - lost - pairs * difference
        if variance <= 0.0:
            return math.copysign(math.inf, distance) if distance else 0.0
        return distance / math.sqrt(variance)

    return (
        falling_root(lambda d: score(d) - z, -1.0, estimate),
        falling_root(lambda d: score(d) + z, estimate, 1.0),
    )


def perplexity(nll: npt.ArrayLike, tokens: npt.ArrayLike, bootstrap: Bootstrap) -> Estimate:
    """exp(sum of nll / sum of tokens) with a clustered bootstrap interval.

    `nll` holds each prompt's summed negative log-likelihood (nats), `tokens` its token count.
    """
    return bootstrap.ratio(np.asarray(nll), np.asarray(tokens), np.exp)


def perplexity_ratio(
    tuned_nll: npt.ArrayLike, base_nll: npt.ArrayLike, tokens: npt.ArrayLike, bootstrap: Bootstrap
) -> Estimate:
    """Tuned perplexity over base perplexity of the same tokens, both resampled together."""
    return perplexity(np.subtract(tuned_nll, base_nll, dtype=np.float64), tokens, bootstrap)


def falling_root(function: Callable[[float], float], low: float, high: float) -> float:
    """The zero of a falling function in [low, high]; the nearer end if it has none there."""
    if function(low) <= 0:
        return low
    if function(high) >= 0:
        return high
    for _ in range(80):
        middle = (low + high) / 2
        if function(middle) > 0:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def is_binary(values: npt.ArrayLike) -> bool:
    """Are all values 0 or 1?"""
    return bool(np.isin(values, (0.0, 1.0)).all())


def normal_quantile(confidence: float) -> float:
    """z such that a normal variable lies within z standard deviations with this probability."""
    return NormalDist().inv_cdf((1 + confidence) / 2)


def _student_quantile(confidence: float, freedom: int) -> float:
    from scipy import stats

    return float(stats.t.ppf((1 + confidence) / 2, freedom))
