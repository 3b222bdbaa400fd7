"""Simulated benchmarks with a known truth: do the intervals cover it, and does A/A stay silent?

Each prompt has a difficulty, shared in part by prompts of one source; each model answers it right
with a probability that falls with it, and finds its reference answer the less likely the harder it
is. The truth is the mean over very many prompts drawn the same way.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bench import statistics

Floats = npt.NDArray[np.float64]
BASE_SKILL, TUNED_SKILL = -0.5, 0.2
_TRUTH_PROMPTS = 4_000_000


@dataclass(frozen=True)
class Simulated:
    """One benchmark's raw results, each of length [prompts]."""

    base: Floats
    tuned: Floats
    base_nll: Floats
    tuned_nll: Floats
    tokens: Floats
    clusters: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Coverage:
    """Share of simulated benchmarks whose interval held the truth, by quantity, and the share
    of A/A benchmarks in which a difference was called."""

    intervals: dict[str, float]
    false_alarms: float


def simulate(
    generator: np.random.Generator, prompts: int, per_source: int, *, same_model: bool = False
) -> Simulated:
    """Draw a benchmark; `per_source` prompts share a source. `same_model`: base against itself."""
    clusters = np.arange(prompts) // per_source
    shared = generator.normal(size=clusters[-1] + 1)[clusters]
    own = generator.normal(size=prompts)
    # A source explains half of the difficulty's variance; alone, a prompt is its own source.
    difficulty = (shared + own) / np.sqrt(2) if per_source > 1 else own
    tuned_skill = BASE_SKILL if same_model else TUNED_SKILL
    right = [
        (generator.random(prompts) < _logistic(2 * (skill - difficulty))).astype(np.float64)
        for skill in (BASE_SKILL, tuned_skill)
    ]
    tokens = 1.0 + generator.poisson(3.0, size=prompts).astype(np.float64)
    losses = [
        generator.gamma(tokens, np.exp(0.5 * (difficulty - skill)))
        for skill in (BASE_SKILL, tuned_skill)
    ]
    return Simulated(right[0], right[1], losses[0], losses[1], tokens, clusters)


def covered(
    *, benchmarks: int, prompts: int, per_source: int, resamples: int, seed: int
) -> Coverage:
    """How often 95 % intervals hold the truth, and how often A/A shows a difference at 5 %."""
    generator = np.random.default_rng(seed)
    truth = _truth(simulate(generator, _TRUTH_PROMPTS, 1))
    held = dict.fromkeys(truth, 0)
    alarms = 0
    for number in range(benchmarks):
        drawn = simulate(generator, prompts, per_source)
        for name, estimate in _estimates(drawn, resamples, seed + number).items():
            held[name] += estimate.low <= truth[name] <= estimate.high
        same = simulate(generator, prompts, per_source, same_model=True)
        alarms += _shows_difference(same, resamples, seed + number)
    shares = {name: count / benchmarks for name, count in held.items()}
    return Coverage(shares, alarms / benchmarks)


def _truth(many: Simulated) -> dict[str, float]:
    losses = {"base": many.base_nll.sum(), "tuned": many.tuned_nll.sum()}
    tokens = many.tokens.sum()
    return {
        "accuracy": float(many.tuned.mean()),
        "difference": float(many.tuned.mean() - many.base.mean()),
        "perplexity": float(np.exp(losses["tuned"] / tokens)),
        "perplexity ratio": float(np.exp((losses["tuned"] - losses["base"]) / tokens)),
    }


def _estimates(drawn: Simulated, resamples: int, seed: int) -> dict[str, statistics.Estimate]:
    return {
        "accuracy": statistics.accuracy(drawn.tuned, drawn.clusters),
        "difference": statistics.paired_difference(
            drawn.tuned, drawn.base, drawn.clusters, resamples=resamples, seed=seed
        ),
        "perplexity": statistics.perplexity(
            drawn.tuned_nll, drawn.tokens, drawn.clusters, resamples=resamples, seed=seed
        ),
        "perplexity ratio": statistics.perplexity_ratio(
            drawn.tuned_nll,
            drawn.base_nll,
            drawn.tokens,
            drawn.clusters,
            resamples=resamples,
            seed=seed,
        ),
    }


def _shows_difference(drawn: Simulated, resamples: int, seed: int) -> bool:
    """The verdict's rule: the interval excludes zero and the exact test agrees."""
    difference = statistics.paired_difference(
        drawn.tuned, drawn.base, drawn.clusters, resamples=resamples, seed=seed
    )
    net = np.bincount(drawn.clusters, weights=drawn.tuned - drawn.base)
    p = statistics.paired_p([round(value) for value in net])
    return p < 0.05 and not difference.low <= 0.0 <= difference.high


def _logistic(values: Floats) -> Floats:
    return 1.0 / (1.0 + np.exp(-values))
