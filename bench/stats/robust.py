"""How far off a ratio of sums is, clusters counted together: the ground of all t intervals here.

A mean is the ratio of the scores' sum to the number of prompts, a log perplexity that of the losses
to the tokens. The clusters are independent, nothing is supposed about the prompts within one.
All arrays may have leading axes (simulated benchmarks); the last one is clusters.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tuneserve.bench.stats.bootstrap import FloatArray


@dataclass(frozen=True)
class Spread:
    """`value`: sum over sum; `variance`: of it, cluster-robust; `skewness`: third standardized
    moment of it; all [...]. `shares`: each cluster's part of the denominator, [..., clusters]."""

    value: FloatArray
    variance: FloatArray
    skewness: FloatArray
    shares: FloatArray

    def half_width(self, confidence: float) -> FloatArray:
        """Student's quantile for the spread's degrees of freedom: standard errors on each side."""
        from scipy import stats

        found: FloatArray = stats.t.ppf((1 + confidence) / 2, self.freedom())
        return found

    def freedom(self) -> FloatArray:
        """Degrees of freedom of the variance, by Satterthwaite's approximation (Bell & McCaffrey
        2002, Survey Methodology 28:169; Imbens & Kolesar 2016, Rev Econ Stat 98:701): those of
        the chi square with the mean and the variance that the estimator has if prompts are
        independent. Clusters - 1 where all have the same size, fewer where one has much."""
        share = self.shares
        scale = 1 / (1 - share)
        pull = scale * share
        common = (share * pull).sum(-1, keepdims=True)
        own = scale - 2 * pull + common
        shift = common / 2 - pull
        # The variance is u'Au for the clusters' errors u; trace of AT and of ATAT, T = var(u).
        mean = (share * own).sum(-1)
        spread = (share**2 * (own**2 - (2 * shift) ** 2)).sum(-1)
        spread += 2 * share.sum(-1) * (share * shift**2).sum(-1)
        spread += 2 * (share * shift).sum(-1) ** 2
        freedom: FloatArray = mean**2 / spread
        return freedom


def spread_of(numerators: FloatArray, denominators: FloatArray) -> Spread:
    """The ratio of the sums of [..., clusters] over clusters (two or more), and its spread.

    The variance is the cluster-robust one with each cluster's residual enlarged by what fitting
    takes from it (CR2; Bell & McCaffrey 2002): for clusters of one size that is n / (n - 1).
    """
    total = denominators.sum(-1, keepdims=True)
    shares = denominators / total
    value = numerators.sum(-1, keepdims=True) / total
    residuals = numerators / total - value * shares
    squares = residuals**2
    raw = squares.sum(-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        skewness = np.where(raw > 0, (residuals**3).sum(-1) / raw**1.5, 0.0)
    return Spread(
        value=value[..., 0],
        variance=(squares / (1 - shares)).sum(-1),
        skewness=skewness,
        shares=np.broadcast_to(shares, residuals.shape),
    )


KNEE, LOSSES_KNEE = 0.7, 0.9
"""Where the cube root is left for its tangent. At 1 it is vertical: past that, a little more
skewness takes the end of an interval to several times its distance, and still more brings it near
again. Losses have longer tails than scores and gains, and reach further."""


def unskewed(quantile: FloatArray, skewness: FloatArray, knee: float = KNEE) -> FloatArray:
    """Standard errors on one side of a skewed estimate for Student's `quantile`: the inverse of
    the cubic that takes the skewness away (Hall 1992, JRSS B 54:221), where it is steep its
    tangent. Monotone in the skewness on the side to which that reaches."""
    # Near no skewness the formula is 0 / 0 and the identity its limit.
    some = np.where(np.abs(skewness) < 1e-12, 1e-12, skewness)
    inner = some * (quantile - some / 6)
    root = np.expm1(np.log1p(np.clip(inner, -knee, 0.5)) / 3)  # exact where inner is next to 0
    root = np.where(inner > 0.5, np.cbrt(1 + inner) - 1, root)
    slope = (1 - knee) ** (-2 / 3) / 3
    root += slope * np.minimum(inner + knee, 0.0)
    found: FloatArray = 3 / some * root
    return found
