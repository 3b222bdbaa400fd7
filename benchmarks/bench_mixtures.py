"""Designs that no interval of few prompts holds by itself: few prompts are of another kind than all
others, or the tail is heavier than intervals suppose; and some shapes beside those of
bench_simulation.py that they should hold.

A sample that shows none of the rare kind can't tell of it. So coverage is given twice: of all
samples, and of those that show at least one of the rare kind, which is what intervals promise.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from bench_simulation import GRADED, PAIRED, PERPLEXITY, RATIO, SCORE, Floats, Kind, Source


def _mixed(
    share: float,
    rare: Callable[[Source], Floats],
    usual: Callable[[Source], Floats],
) -> Callable[[Source], Floats]:
    """That share of prompts is drawn from `rare`."""
    return lambda source: np.where(source.chance(share) > 0, rare(source), usual(source))


def _normal(mean: float, deviation: float) -> Callable[[Source], Floats]:
    return lambda source: source.random.normal(mean, deviation, source.shape)


def _exponential(mean: float) -> Callable[[Source], Floats]:
    return lambda source: source.random.exponential(mean, source.shape)


def _equal(value: float) -> Callable[[Source], Floats]:
    return lambda source: np.full(source.shape, value)


def _of(*values: float) -> Callable[[Source], Floats]:
    return lambda source: source.random.choice(values, source.shape)


def _tripled(source: Source) -> Floats:
    """Losses of lognormal spread, one prompt in ten with eight times as much."""
    lognormal = np.exp(source.random.normal(0, 0.5, source.shape))
    return lognormal * np.where(source.chance(0.1) > 0, 8.0, 1.0)


def _pareto(source: Source) -> Floats:
    return source.random.pareto(3.0, source.shape) + 1.0


def _weibull(source: Source) -> Floats:
    return source.random.weibull(0.7, source.shape)


def _gamma(source: Source) -> Floats:
    return source.random.gamma(0.5, 2.0, source.shape)


def _lognormal(source: Source) -> Floats:
    return np.exp(source.random.normal(0, 2.0, source.shape))


def _skewed(source: Source) -> Floats:
    """What a good tune gains: most of the loss of every prompt, lognormal under the base."""
    base = np.exp(source.random.normal(0, 1.0, source.shape))
    return base * (0.3 * np.exp(source.random.normal(0, 0.3, source.shape)) - 1)


def _gained(source: Source) -> Floats:
    return -np.exp(source.random.normal(-1, 1.0, source.shape))


def _u_shaped(source: Source) -> Floats:
    """Scores near 0 and 1."""
    return source.random.beta(0.3, 0.3, source.shape)


def _unrelated(source: Source) -> Floats:
    """Difference of two such scores that know nothing of each other."""
    return source.random.beta(0.4, 0.3, source.shape) - source.random.beta(0.3, 0.3, source.shape)


def _related(source: Source) -> Floats:
    """Seven in ten prompts have the base's score again, the others one of their own."""
    base = source.random.beta(0.7, 0.7, source.shape)
    own = source.random.beta(1.0, 0.7, source.shape)
    return np.where(source.random.random(source.shape) < 0.7, 0.0, own - base)


def _zeros(source: Source) -> Floats:
    """Six in ten base scores are 0, and four in five of those stay it; others gain 0.1."""
    zero = source.random.random(source.shape) < 0.6
    base = np.where(zero, 0.0, source.random.beta(2, 2, source.shape))
    stays = zero & (source.random.random(source.shape) < 0.8)
    gained = np.clip(base + source.random.normal(0.1, 0.15, source.shape), 0, 1)
    return np.where(stays, 0.0, gained - base)


def _ties(source: Source) -> Floats:
    """Differences in quarters, of which most are 0."""
    return np.round(source.random.normal(0, 0.1, source.shape) * 4) / 4


def _broken(share: float) -> Callable[[Source], Floats]:
    """Scores of 0.8 to 1, but for those that are 0: JSON that is broken now and then."""
    return lambda source: np.where(
        source.chance(share) > 0, 0.0, source.random.uniform(0.8, 1.0, source.shape)
    )


def _of_sources(share: float) -> Callable[[Source], Floats]:
    """Sources of which that share lose every prompt, and the others gain as much in all."""

    def draw(source: Source) -> Floats:
        clusters = source.clusters if not source.alone else np.arange(source.shape[1])
        drawn = source.random.random((source.shape[0], clusters[-1] + 1)) < share
        gains = source.random.random(source.shape) < share / (1 - share)
        return np.where(drawn[:, clusters], -1.0, gains.astype(np.float64))

    return draw


SOURCE_MIXTURES = {
    "sources .1": Kind(
        PAIRED,
        "10 % of sources lose all, others gain as much in all",
        _of_sources(0.1),
        True,
        rare=lambda x: x < -0.5,
    ),
    "sources .05": Kind(
        PAIRED,
        "5 % of sources lose all, others gain as much in all",
        _of_sources(0.05),
        True,
        rare=lambda x: x < -0.5,
    ),
}
MIXTURES = {
    "broken .04": Kind(
        SCORE, "4 % are 0, others 0.8 to 1", _broken(0.04), rare=lambda x: x < 0.5
    ),
    "broken .02": Kind(
        SCORE, "2 % are 0, others 0.8 to 1", _broken(0.02), rare=lambda x: x < 0.5
    ),
    "hard": Kind(
        PERPLEXITY, "5 % of prompts have 30 times the loss, both exponential",
        _mixed(0.05, _exponential(10), _exponential(0.3)), rare=lambda x: x > 3,
    ),
    "hard 6": Kind(
        PERPLEXITY, "5 % of prompts have a loss of 6 nats, others exponential 0.3",
        _mixed(0.05, _normal(6, 1), _exponential(0.3)), rare=lambda x: x > 3,
    ),
    "eight": Kind(
        PERPLEXITY, "losses lognormal, sigma 0.5; 10 % have 8 times as much",
        _tripled, rare=lambda x: x > 4,
    ),
    "lost 2": Kind(
        RATIO, "5 % of prompts lose 2 nats, others change by 0.02",
        _mixed(0.05, _normal(2, 1), _normal(0, 0.02)), rare=lambda x: np.abs(x) > 0.1,
    ),
    "lost 2 .3": Kind(
        RATIO, "5 % of prompts lose 2 nats, others change by 0.3",
        _mixed(0.05, _normal(2, 1), _normal(0, 0.3)), rare=lambda x: x > 1,
    ),
    "lost 1": Kind(
        RATIO, "10 % of prompts lose 1 nat, others gain 0.1",
        _mixed(0.1, _normal(1, 0.5), _normal(-0.1, 0.1)), rare=lambda x: x > 0.3,
    ),
    "gained": Kind(
        RATIO, "30 % of prompts gain 1 nat (exponential), others nothing",
        _mixed(0.3, lambda source: -_exponential(1)(source), _normal(0, 0.01)),
        rare=lambda x: x < -0.1,
    ),
    "fell": Kind(
        GRADED, "3 % of prompts fall by 1, others gain 0.02",
        _mixed(0.03, _equal(-1.0), _normal(0.02, 0.01)), True, rare=lambda x: x < -0.5,
    ),
    "mixed": Kind(
        GRADED, "15 % differ, by -0.1, +0.1 or +1",
        _mixed(0.15, _of(-0.1, 0.1, 1.0), _equal(0.0)), True, rare=lambda x: x > 0.5,
    ),
    "noise": Kind(
        GRADED, "10 % of prompts gain 0.8, others change by 0.1",
        _mixed(0.1, _normal(0.8, 0.05), _normal(0, 0.1)), rare=lambda x: x > 0.5,
    ),
    "fell, even": Kind(
        GRADED, "3 % of prompts fall by 1, others gain as much in all",
        _mixed(0.03, _equal(-1.0), _normal(0.03 / 0.97, 0.01)), True, rare=lambda x: x < -0.5,
    ),
    "fell 6, even": Kind(
        GRADED, "6 % of prompts fall by 1, others gain as much in all",
        _mixed(0.06, _equal(-1.0), _normal(0.06 / 0.94, 0.01)), True, rare=lambda x: x < -0.5,
    ),
    "noise, even": Kind(
        GRADED, "10 % of prompts fall by 0.8, others gain as much in all, spread 0.1",
        _mixed(0.1, _normal(-0.8, 0.05), _normal(0.08 / 0.9, 0.1)), rare=lambda x: x < -0.5,
    ),
    "gain .3, even": Kind(
        GRADED, "23 % of prompts fall by 1, others gain 0.3 each",
        _mixed(0.3 / 1.3, _equal(-1.0), _normal(0.3, 0.03)), rare=lambda x: x < -0.5,
    ),
    "gain .7, even": Kind(
        GRADED, "12 % of prompts fall by 1, one in five of the others gains 0.7",
        _mixed(0.14 / 1.14, _equal(-1.0), _mixed(0.2, _normal(0.7, 0.07), _equal(0.0))),
        rare=lambda x: x < -0.5,
    ),
    "skewed": Kind(RATIO, "lognormal losses (sigma 1) fall to about 0.3 of each", _skewed),
    "skewed .7": Kind(
        RATIO, "the same, lengths of log-spread 0.7", _skewed, lengths=0.7
    ),
    "skewed .9": Kind(
        RATIO, "the same, lengths of log-spread 0.9", _skewed, lengths=0.9
    ),
    "gained .7": Kind(
        RATIO, "gains lognormal, sigma 1; lengths of log-spread 0.7", _gained, lengths=0.7
    ),
    "pareto": Kind(PERPLEXITY, "losses Pareto, index 3", _pareto),
    "lognormal 2": Kind(PERPLEXITY, "losses lognormal, sigma 2", _lognormal),
    "weibull": Kind(PERPLEXITY, "losses Weibull, shape 0.7", _weibull),
    "gamma .5": Kind(PERPLEXITY, "losses gamma, shape 0.5", _gamma),
    "u": Kind(SCORE, "most near 0 or near 1", _u_shaped),
    "unrelated": Kind(GRADED, "base and tuned near 0 or 1, unrelated", _unrelated),
    "related": Kind(GRADED, "70 % as the base, others new", _related, True),
    "zeros": Kind(GRADED, "half the scores are 0 for both", _zeros, True),
    "ties": Kind(GRADED, "in quarters, 80 % tied", _ties, True),
}  # fmt: skip

EVEN = ("fell, even", "fell 6, even", "noise, even", "gain .3, even", "gain .7, even", "ties")
"""Those of differences in which neither model is better."""

SKEWED = ("skewed", "skewed .7", "skewed .9", "gained .7")
"""Those of gains all of one sign that few prompts have much of: held from FEWEST_SKEWED on."""
FEWEST_SKEWED = 20
