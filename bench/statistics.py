"""Intervals and tests for paired results, prompts that share a source counted together.

One prompt gives a pair of results, one per model. Prompts with the same source (pieces of one
document, paraphrases of one question) are not independent: they form a cluster, and clusters are
what is resampled and counted. Without sources every prompt is a cluster of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

_CHUNK_CELLS = 4_000_000  # resampling counts held at a time (32 MB)


@dataclass(frozen=True)
class Estimate:
    """A value with its confidence interval."""

    value: float
    low: float
    high: float

    def scaled(self, factor: float) -> Estimate:
        return Estimate(self.value * factor, self.low * factor, self.high * factor)


def cluster_numbers(sources: Sequence[str | None]) -> IntArray:
    """Number each prompt's cluster from 0: equal sources share one, None is alone."""
    numbers: dict[object, int] = {}
    return np.array(
        [
            numbers.setdefault(source if source is not None else ("alone", place), len(numbers))
            for place, source in enumerate(sources)
        ],
        dtype=np.int64,
    )


def wilson(successes: float, trials: float, confidence: float = 0.95) -> Estimate:
    """Wilson's score interval for a proportion (Wilson 1927, JASA 22:209).

    `trials` may be an effective, fractional number. Raises ValueError without trials.
    """
    if trials <= 0:
        raise ValueError("a proportion needs at least one trial")
    z = _normal_quantile(confidence)
    share = successes / trials
    centre = (share + z * z / (2 * trials)) / (1 + z * z / trials)
    spread = z * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    half = spread / (1 + z * z / trials)
    return Estimate(share, max(0.0, centre - half), min(1.0, centre + half))


def accuracy(
    scores: npt.ArrayLike,
    clusters: IntArray,
    confidence: float = 0.95,
    *,
    resamples: int = 10_000,
    seed: int = 0,
) -> Estimate:
    """Mean score with its interval: Wilson's for right or wrong, else the clustered bootstrap's.

    With clusters Wilson's number of trials is the effective one (Korn & Graubard 1998, Survey
    Methodology 24:193): prompts that succeed and fail together count for fewer.
    """
    values = np.asarray(scores, dtype=np.float64)
    mean = float(values.mean())
    if is_binary(values):
        trials = effective_size(values, clusters, confidence)
        return wilson(mean * trials, trials, confidence)
    columns = np.column_stack([values, np.ones_like(values)])
    sums = resampled_sums(columns, clusters, resamples, seed)
    return Estimate(mean, *percentile_interval(sums[:, 0] / sums[:, 1], confidence))


def effective_size(values: FloatArray, clusters: IntArray, confidence: float = 0.95) -> float:
    """How many independent prompts these clustered ones are worth; at most len(values).

    The ratio of the variance of the mean if prompts were independent to its cluster-robust
    variance, times Korn & Graubard's correction for few clusters. Where the values don't vary
    at all it is the number of clusters.
    """
    n = len(values)
    count = int(clusters.max()) + 1
    if count == n:
        return float(n)
    if count == 1:
        return 1.0
    deviations = values - values.mean()
    independent = float((deviations**2).sum()) / n**2
    per_cluster = np.bincount(clusters, weights=deviations, minlength=count)
    robust = float((per_cluster**2).sum()) / n**2 * count / (count - 1)
    if independent == 0.0:
        return float(count)
    if robust == 0.0:
        return float(n)
    tails = _student_quantile(confidence, n - 1) / _student_quantile(confidence, count - 1)
    return max(1.0, min(float(n), n * independent / robust * tails**2))


def resampled_sums(
    columns: FloatArray, clusters: IntArray, resamples: int, seed: int
) -> FloatArray:
    """Sums of each column over bootstrap resamples of whole clusters.

    `columns` is [prompts, columns]; returns [resamples, columns]. All columns share the same
    resamples, so ratios and differences between them are paired.
    """
    count = int(clusters.max()) + 1
    per_cluster = np.zeros((count, columns.shape[1]))
    np.add.at(per_cluster, clusters, columns)
    generator = np.random.default_rng(seed)
    chunks = [draws @ per_cluster for draws in _cluster_draws(generator, count, resamples)]
    return np.concatenate(chunks)


def paired_difference(
    tuned: npt.ArrayLike,
    base: npt.ArrayLike,
    clusters: IntArray,
    *,
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> Estimate:
    """Mean of tuned - base over prompts, each result in [0, 1], with a bootstrap interval.

    The percentile bootstrap over clusters is too short where few prompts differ (of no width
    where none does). For right-or-wrong results Tango's score interval has no such hole and
    bounds it from below; otherwise nothing does, and few differing prompts deserve suspicion.
    """
    tuned_array = np.asarray(tuned, dtype=np.float64)
    base_array = np.asarray(base, dtype=np.float64)
    differences = tuned_array - base_array
    columns = np.column_stack([differences, np.ones_like(differences)])
    sums = resampled_sums(columns, clusters, resamples, seed)
    low, high = percentile_interval(sums[:, 0] / sums[:, 1], confidence)
    if is_binary(tuned_array) and is_binary(base_array):
        size = effective_size(differences, clusters, confidence)
        won = float((differences > 0).mean()) * size
        lost = float((differences < 0).mean()) * size
        score_low, score_high = tango(won, lost, size, confidence)
        low, high = min(low, score_low), max(high, score_high)
    return Estimate(float(differences.mean()), low, high)


def tango(won: float, lost: float, pairs: float, confidence: float = 0.95) -> tuple[float, float]:
    """Score interval for the difference of two paired proportions (Tango 1998, Stat Med 17:891).

    `won` and `lost` count the pairs that only the first and only the second has right.
    """
    z = _normal_quantile(confidence)
    estimate = (won - lost) / pairs

    def score(difference: float) -> float:
        """Standardised distance of the data from a true `difference`; falls as it grows."""
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
        _falling_root(lambda d: score(d) - z, -1.0, estimate),
        _falling_root(lambda d: score(d) + z, estimate, 1.0),
    )


def perplexity(
    nll: npt.ArrayLike,
    tokens: npt.ArrayLike,
    clusters: IntArray,
    *,
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> Estimate:
    """exp(sum of nll / sum of tokens) with a clustered bootstrap interval.

    `nll` holds each prompt's summed negative log-likelihood (nats), `tokens` its token count.
    """
    losses = np.asarray(nll, dtype=np.float64)
    counts = np.asarray(tokens, dtype=np.float64)
    sums = resampled_sums(np.column_stack([losses, counts]), clusters, resamples, seed)
    low, high = percentile_interval(np.exp(sums[:, 0] / sums[:, 1]), confidence)
    return Estimate(math.exp(float(losses.sum() / counts.sum())), low, high)


def perplexity_ratio(
    tuned_nll: npt.ArrayLike,
    base_nll: npt.ArrayLike,
    tokens: npt.ArrayLike,
    clusters: IntArray,
    *,
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> Estimate:
    """Tuned perplexity over base perplexity of the same tokens, both resampled together."""
    excess = np.asarray(tuned_nll, dtype=np.float64) - np.asarray(base_nll, dtype=np.float64)
    return perplexity(
        excess, tokens, clusters, confidence=confidence, resamples=resamples, seed=seed
    )


def percentile_interval(draws: FloatArray, confidence: float) -> tuple[float, float]:
    tail = (1 - confidence) / 2
    low, high = np.quantile(draws, [tail, 1 - tail])
    return float(low), float(high)


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
    order = sorted(range(len(p_values)), key=lambda place: p_values[place])
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for rank, place in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = highest
    return adjusted


def smallest_detectable(
    discordant_share: float, pairs: float, confidence: float = 0.95, power: float = 0.8
) -> float:
    """The true difference that this many pairs would show with probability `power`.

    From the normal approximation to McNemar's test (Connor 1987, Biometrics 43:207), solved for
    the difference at the observed share of discordant pairs; never below one prompt.
    """
    z_alpha = _normal_quantile(confidence)
    z_power = NormalDist().inv_cdf(power)

    def surplus(difference: float) -> float:
        share = max(discordant_share, difference)
        needed = (z_alpha * math.sqrt(share) + z_power * math.sqrt(share - difference**2)) ** 2
        return needed - pairs * difference**2

    if pairs < 1:
        return 1.0
    return max(1.0 / pairs, _falling_root(surplus, 1e-9, 1.0))


def _cluster_draws(
    generator: np.random.Generator, count: int, resamples: int
) -> Iterator[FloatArray]:
    """How often each of `count` clusters is drawn, for `resamples` resamples, in chunks."""
    size = max(1, _CHUNK_CELLS // count)
    shares = np.full(count, 1.0 / count)
    for first in range(0, resamples, size):
        rows = min(size, resamples - first)
        yield generator.multinomial(count, shares, size=rows).astype(np.float64)


def _falling_root(function: Callable[[float], float], low: float, high: float) -> float:
    """Where a falling function crosses zero in [low, high]; the nearer end if it does not."""
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


def is_binary(values: FloatArray) -> bool:
    """Are all values 0 or 1?"""
    return bool(np.isin(values, (0.0, 1.0)).all())


def _normal_quantile(confidence: float) -> float:
    return NormalDist().inv_cdf((1 + confidence) / 2)


def _student_quantile(confidence: float, freedom: int) -> float:
    from scipy import stats

    return float(stats.t.ppf((1 + confidence) / 2, freedom))
