"""Intervals of perplexities and of the ratio of two, clusters counted together.

Losses and token counts are arrays of one entry a prompt; for `ends`, arrays (low, high), they may
have leading axes, as those of intervals.py.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from tuneserve.bench.stats.bootstrap import Bootstrap, Estimate, FloatArray
from tuneserve.bench.stats.intervals import FEWEST, hull, lopsided
from tuneserve.bench.stats.proportions import Ends
from tuneserve.bench.stats.robust import LOSSES_KNEE, Spread, spread_of

WIDEST = 10.0
"""Times a perplexity, or a ratio of two, that an end of its interval may lie away: one further off
says nothing."""


def perplexity(nll: npt.ArrayLike, tokens: npt.ArrayLike, bootstrap: Bootstrap) -> Estimate:
    """exp(sum of nll / sum of tokens) with its interval (`perplexity_ends`).

    `nll` holds each prompt's summed negative log-likelihood (nats), `tokens` its token count.
    """
    losses, counts = np.asarray(nll, np.float64), np.asarray(tokens, np.float64)
    value = math.exp(float(losses.sum() / counts.sum()))
    if bootstrap.count < FEWEST:
        return Estimate(value, why_not=bootstrap.described)
    if why_not := lopsided(bootstrap.by_cluster(counts), bootstrap):
        return Estimate(value, why_not=why_not)
    return _of_losses(value, perplexity_ends(losses, counts, bootstrap), bootstrap, least=1.0)


def perplexity_ends(losses: FloatArray, tokens: FloatArray, bootstrap: Bootstrap) -> Ends:
    """Interval of exp(sum of losses / sum of tokens), [..., prompts]; FEWEST clusters or more.

    Student's t on the logarithm of the mean loss, which heavy tails distort less, with the
    cluster-robust standard error of `spread_of`. The tail that a small sample did not see makes
    the observed mean and its error too small. So the upper end takes the error of a lognormal mean
    where it is the larger (`tail_factor`). It is also shifted as Johnson (1978, JASA 73:536) does
    for a skewed mean. Where a few losses of another kind make the mean, Hall's interval (`hull`)
    reaches further up, and its end is taken.
    """
    sums, counts = bootstrap.by_cluster(losses), bootstrap.by_cluster(tokens)
    spread = spread_of(sums, counts)
    quantile = spread.half_width(bootstrap.confidence)
    tiny = np.finfo(np.float64).tiny
    mean = np.maximum(spread.value, tiny)
    error = np.sqrt(spread.variance) / mean
    upper = tail_factor(sums, counts, spread) * error
    shift = (1 + 2 * quantile**2) / 4 * upper**2
    _, skewed = hull(
        spread, np.sqrt(spread.variance), spread.skewness, bootstrap.confidence, LOSSES_KNEE
    )
    with np.errstate(over="ignore"):
        low = np.exp(mean * np.exp(-quantile * error))
        high = np.exp(np.maximum(mean * np.exp(quantile * upper + shift), skewed))
    return low, high


def tail_factor(sums: FloatArray, counts: FloatArray, spread: Spread) -> FloatArray:
    """How many times the observed error of the mean of amounts (sum of `sums` over sum of `counts`,
    [..., clusters], none negative) that of a lognormal mean is (Cox's; Zhou & Gao 1997, Stat Med
    16:783), its variance from the amounts above the median alone: 1 to 1 + 2.7 / sqrt(clusters)."""
    number, tiny = sums.shape[-1], np.finfo(np.float64).tiny
    logs = np.log(np.maximum(sums / counts, tiny))
    above = np.maximum(logs - np.median(logs, -1, keepdims=True), 0.0)
    variance = 2 * (above**2).mean(-1) * number / (number - 1)
    worth = 1 / (spread.shares**2).sum(-1)
    lognormal = np.sqrt(variance / worth + variance**2 / (2 * np.maximum(worth - 1, 0.5)))
    observed = np.sqrt(spread.variance) / np.maximum(spread.value, tiny)
    factor = lognormal / np.maximum(observed, tiny)
    found: FloatArray = np.clip(factor, 1.0, 1 + 2.7 / math.sqrt(number))
    return found


def perplexity_ratio(
    tuned_nll: npt.ArrayLike, base_nll: npt.ArrayLike, tokens: npt.ArrayLike, bootstrap: Bootstrap
) -> Estimate:
    """Tuned perplexity over base perplexity of the same tokens, with its interval
    (`ratio_ends`)."""
    gains = np.subtract(tuned_nll, base_nll, dtype=np.float64)
    counts = np.asarray(tokens, np.float64)
    value = math.exp(float(gains.sum() / counts.sum()))
    if bootstrap.count < FEWEST:
        return Estimate(value, why_not=bootstrap.described)
    if not gains.any():  # the same model: no doubt
        return Estimate(value, value, value)
    if why_not := lopsided(bootstrap.by_cluster(counts), bootstrap):
        return Estimate(value, why_not=why_not)
    return _of_losses(value, ratio_ends(gains, counts, bootstrap), bootstrap)


def ratio_ends(gains: FloatArray, tokens: FloatArray, bootstrap: Bootstrap) -> Ends:
    """Interval of exp(sum of gains / sum of tokens), [..., prompts]; FEWEST clusters or more.

    Student's t on the logarithm, cluster-robust, and as wide as its skewness asks (Hall 1992). A
    tune gains much on the few prompts that the base finds hard: where nearly all prompts gain, the
    tail of gains is as little seen as that of losses, and the interval reaches further that way
    (`_reach`).
    """
    sums, counts = bootstrap.by_cluster(gains), bootstrap.by_cluster(tokens)
    spread = spread_of(sums, counts)
    low, high = hull(spread, np.sqrt(spread.variance), spread.skewness, bootstrap.confidence)
    low = spread.value - _reach(-sums, counts) * (spread.value - low)
    high = spread.value + _reach(sums, counts) * (high - spread.value)
    with np.errstate(over="ignore"):
        return np.exp(low), np.exp(high)


def _reach(sums: FloatArray, counts: FloatArray) -> FloatArray:
    """The `tail_factor` of changes upwards, as far as nearly all clusters rise; 1 where only half
    of them do. A rise that is less than a tenth of a mean change hardly counts as one."""
    tiny = np.finfo(np.float64).tiny
    upwards = np.maximum(sums, 0.0)
    typical = np.abs(sums).sum(-1, keepdims=True) / counts.sum(-1, keepdims=True)
    notable = (upwards / counts / np.maximum(0.1 * typical, tiny)) ** 4
    rising = (notable / (1 + notable)).mean(-1) ** 4
    factor = tail_factor(upwards, counts, spread_of(upwards, counts))
    found: FloatArray = 1 + rising * (factor - 1)
    return found


def _of_losses(
    value: float, ends: Ends, bootstrap: Bootstrap, *, least: float = math.inf
) -> Estimate:
    """A figure of losses with its interval; none where the losses say nothing of their spread.

    An end that is more than WIDEST times the value away is left out (but a lower one that is
    `least` or more, the least that the figure can be), and only that one: samples with short
    intervals are more often those that did not see the tail, and of whole intervals alone fewer
    would hold the truth.
    """
    low, high = (float(end) for end in ends)
    if high - low <= 1e-12 * value:
        return Estimate(value, why_not=f"no spread over {bootstrap.described}")
    bottom = None if low < min(least, value / WIDEST) else min(low, value)
    top = None if not high <= value * WIDEST else max(high, value)
    if bottom is None or top is None:
        return Estimate(value, bottom, top, f"too large a spread over {bootstrap.described}")
    return Estimate(value, bottom, top)
