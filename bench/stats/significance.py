"""Tests of paired differences, their adjustment when there are several, and their power."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from tuneserve.bench.stats.bootstrap import Bootstrap, Estimate, FloatArray, IntArray
from tuneserve.bench.stats.intervals import FEWEST, difference_ends, mean_spread
from tuneserve.bench.stats.proportions import Ends, falling_root, normal_quantile
from tuneserve.bench.stats.robust import Spread, spread_of
from tuneserve.bench.stats.unseen import unseen_odds
from tuneserve.bench.stats.wholeness import nearly_alone, nearly_whole, of_clusters

POWER = 0.8
_EXACT_CLUSTERS = 14  # up to so many, all 2^clusters sign assignments are gone through


def mcnemar_exact(won: int, lost: int) -> float:
    """Two-sided exact McNemar p: the binomial probability of a split this uneven or more."""
    discordant = won + lost
    extreme = min(won, lost)
    tail = sum(math.comb(discordant, k) for k in range(extreme + 1))
    return min(1.0, 2 * tail / (1 << discordant))


def paired_p(net_wins: npt.ArrayLike, *, seed: int = 0, flips: int = 20_000) -> float:
    """Two-sided p that clusters' net wins are symmetric about zero (sign-flip test).

    One entry per cluster: its sum of tuned - base. Whole numbers (right or wrong answers) get the
    exact p, which is McNemar's where every cluster is one prompt; so do up to 14 clusters of other
    scores. More get it from `flips` random sign assignments, the observed one counted among them.
    """
    net = np.asarray(net_wins, dtype=np.float64)
    if np.allclose(net, np.round(net), atol=1e-9):
        return _exact_flip_p(np.round(net).astype(np.int64))
    return float(flip_p(net, seed=seed, flips=flips))


def flip_p(net: FloatArray, *, seed: int = 0, flips: int = 20_000) -> FloatArray:
    """The sign-flip test's p of scores, [..., clusters] to [...]; the same in whatever order they
    stand, and with the models exchanged."""
    count = net.shape[-1]
    observed = np.abs(net.sum(-1)) * (1 - 1e-12)
    net = np.sort(np.abs(net), axis=-1)  # random signs fall on the same sizes
    if count <= _EXACT_CLUSTERS:
        # Of each assignment and its opposite, which has the same absolute sum, only one.
        patterns = np.arange(1 << (count - 1))[:, None] >> np.arange(count) & 1
        extreme = (np.abs(net @ (1.0 - 2.0 * patterns).T) >= observed[..., None]).sum(-1)
        exact: FloatArray = extreme / (1 << (count - 1))
        return exact
    generator = np.random.default_rng(seed)
    found = np.zeros(net.shape[:-1])
    for first in range(0, flips, 1000):
        signs = generator.choice((-1.0, 1.0), size=(min(1000, flips - first), count))
        found += (np.abs(net @ signs.T) >= observed[..., None]).sum(-1)
    return (found + 1) / (flips + 1)


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


def fewest_clusters(level: float) -> int:
    """The number of clusters below which the sign-flip test can't have a p below `level`: its
    smallest is 2 / 2^clusters."""
    count = 1
    while 2.0 ** (1 - count) >= level:
        count += 1
    return count


def direction(
    difference: Estimate,
    p: float,
    confidence: float,
    undoing: float = 0.0,
) -> int:
    """1 where a gain is shown, -1 where a loss is, 0 where neither. The test's `p` and the interval
    both have to say so, and the interval has to leave out what prompts of kinds not seen could
    undo (`undoing_of`) too."""
    low, high = difference.low, difference.high
    if p >= 1 - confidence or low is None or high is None:
        return 0
    return int(low > undoing) - int(high < -undoing)


def undoing_of(differences: FloatArray, bootstrap: Bootstrap, comparisons: int = 1) -> FloatArray:
    """The difference that kinds of prompts (or sources) that none of these shows could undo, beyond
    what test and interval count with; `differences` are [..., prompts].

    Where their share (`unseen_share`) is q, the others make 1 - q of the true difference, and these
    take q from it if the worse is right there and the better fails. One of so many `comparisons`,
    each of which may have its own. Test and interval count with kinds not seen that differ as much
    as those seen: so much less of it counts (`of_clusters`), nothing for answers right or wrong,
    each prompt alone.
    """
    odds = unseen_odds(bootstrap.count, 1 - (1 - bootstrap.confidence) / comparisons)
    return (1 - of_clusters(differences, bootstrap) ** 2) * odds


def smallest_detectable(
    tuned: npt.ArrayLike,
    base: npt.ArrayLike,
    bootstrap: Bootstrap,
    level: float,
    comparisons: int = 1,
) -> float | None:
    """The true difference that prompts like these would show with probability POWER in a test at
    `level` (after Holm's adjustment over k comparisons, that of one in k); None where they could
    show none.

    Right or wrong, each prompt alone: from the exact power of McNemar's test; otherwise
    `detectable_mean`, which with few clusters is on the safe side; there the interval has to leave
    out what could undo a gain (`undoing_of`) too. Between them both count, as in the interval.
    """
    differences = np.subtract(tuned, base, dtype=np.float64)
    if not can_show(bootstrap, level):
        return None
    counts = float(nearly_whole(differences)) * nearly_alone(bootstrap)
    found = 0.0
    if counts > 0:
        share = float((differences**2).mean())
        found += counts * detectable_pairs(share, len(differences), level)
    if counts < 1:
        ends = difference_ends(differences, bootstrap)
        undoing = undoing_of(differences, bootstrap, comparisons)
        of_mean = detectable_mean(differences, ends, bootstrap, level, undoing)
        found += (1 - counts) * float(of_mean)
    return found if found < 1 else None


def can_show(bootstrap: Bootstrap, level: float) -> bool:
    """Are there clusters enough for a difference to be shown at `level`?"""
    return bootstrap.count >= max(FEWEST, fewest_clusters(level))


def detectable_mean(
    differences: FloatArray,
    ends: Ends,
    bootstrap: Bootstrap,
    level: float,
    undoing: npt.ArrayLike = 0.0,
) -> FloatArray:
    """The smallest detectable mean difference of scores, [..., prompts] to [...]; `ends`: the
    interval, which has to leave out zero and what could undo the difference too, and may be longer
    than the standard error says."""
    spread, variance, _ = mean_spread(differences, bootstrap, usual=0.0)
    value = spread.value
    towards_zero = np.where(value >= 0, value - ends[0], ends[1] - value)
    given = towards_zero / spread.half_width(bootstrap.confidence)
    error = np.maximum(np.sqrt(variance), given)
    by_interval = np.asarray(undoing) + _needed(spread, 1 - bootstrap.confidence) * error
    return np.maximum(_needed(spread, level) * error, by_interval)


def detectable_ratio(
    tuned_nll: npt.ArrayLike,
    base_nll: npt.ArrayLike,
    tokens: npt.ArrayLike,
    bootstrap: Bootstrap,
    level: float,
) -> float | None:
    """The perplexity ratio above 1 that would be shown with probability POWER; None where none
    could be."""
    if not can_show(bootstrap, level):
        return None
    gains = np.subtract(tuned_nll, base_nll, dtype=np.float64)
    counts = np.asarray(tokens, dtype=np.float64)
    spread = spread_of(bootstrap.by_cluster(gains), bootstrap.by_cluster(counts))
    return float(np.exp(_needed(spread, level) * np.sqrt(spread.variance)))


def _needed(spread: Spread, level: float) -> FloatArray:
    """Standard errors that a true difference has to be away from zero: Student's quantiles of
    `level` and of POWER; where only the most uneven of all sign assignments has a p below `level`,
    what makes all clusters agree."""
    from scipy import stats

    freedom, count = spread.freedom(), spread.shares.shape[-1]
    needed: FloatArray = stats.t.ppf(1 - level / 2, freedom) + stats.t.ppf(POWER, freedom)
    if 2.0 ** (2 - count) >= level:
        apart = stats.norm.ppf(POWER ** (1 / count)) * math.sqrt(count)
        needed = np.maximum(needed, apart)
    return needed


def enough_to_exclude(
    difference: Estimate,
    prompts: int,
    margin: float,
    confidence: float = 0.95,
    *,
    unseen_loss: float = 0.0,
) -> int | None:
    """How many prompts like these, to two digits, would exclude a loss of `margin` with probability
    POWER if nothing is lost; None where that can't be told. The standard error is read off the
    interval's lower arm; prompts not seen (`unseen_share`) are supposed to lose `unseen_loss`."""
    if difference.low is None or margin <= 0:
        return None
    quantile = normal_quantile(confidence)
    error = (difference.value - difference.low) / quantile * math.sqrt(prompts)
    by_chance = (quantile + NormalDist().inv_cdf(POWER)) * error
    unseen = -math.log(1 - confidence) * unseen_loss
    # by_chance / sqrt(n) + unseen / n = margin
    wanted = ((by_chance + math.sqrt(by_chance**2 + 4 * margin * unseen)) / (2 * margin)) ** 2
    if wanted <= 1:
        return None
    step = int(10 ** max(0, math.floor(math.log10(wanted)) - 1))
    return math.ceil(wanted / step) * step


def detectable_pairs(discordant_share: float, pairs: float, level: float = 0.05) -> float:
    """The true difference that this many pairs of right-or-wrong results would show with
    probability POWER.

    From the exact power of the exact McNemar test at the observed share of discordant pairs (more
    where the difference itself needs more); at least one prompt, 1 where no difference would be
    shown.
    """
    number = round(pairs)
    if number < 1:
        return 1.0

    def lacking(difference: FloatArray) -> FloatArray:
        share = max(discordant_share, float(difference))
        return np.asarray(POWER - mcnemar_power(float(difference), share, number, level))

    return max(1.0 / number, float(falling_root(lacking, 1e-9, 1.0)))


def mcnemar_power(
    difference: float, discordant_share: float, pairs: int, level: float = 0.05
) -> float:
    """How probably the exact McNemar test of `pairs` pairs shows a true `difference` at `level`."""
    from scipy import stats

    # All numbers of discordant pairs with a probability that is not negligible.
    low, high = stats.binom.ppf([1e-9, 1 - 1e-9], pairs, discordant_share)
    discordant = np.arange(int(low), int(high) + 1)
    tail = level / 2
    # `most`: the largest number of wins (or losses) at which the two-sided test rejects.
    most = stats.binom.ppf(tail, discordant, 0.5)
    most -= stats.binom.cdf(most, discordant, 0.5) >= tail
    lost_share = (1 - difference / discordant_share) / 2
    shown = stats.binom.cdf(most, discordant, lost_share)
    shown += stats.binom.cdf(most, discordant, 1 - lost_share)
    return float((stats.binom.pmf(discordant, pairs, discordant_share) * shown).sum())
