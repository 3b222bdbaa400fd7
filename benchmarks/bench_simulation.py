"""Simulated benchmarks with a known truth: do the intervals cover it, and does A/A stay silent?

Each prompt has a difficulty, shared in part by prompts of one source; each model answers it right
with a probability that falls with it, and finds its reference answer the less likely the harder it
is. The truth is the mean over very many prompts drawn the same way.

And benchmarks of groups whose gap is known: is "widened" said only where it widens? Each group has
a share of right answers under either model, the same for all its prompts; prompts of one source get
the tuned model's answers right together.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from tuneserve.bench.stats import intervals, significance
from tuneserve.bench.stats.bootstrap import Bootstrap, Estimate
from tuneserve.bench.stats.gaps import GapComparison, compare_gaps

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
    """Share of simulated benchmarks whose interval held the truth, by quantity; the same had the
    prompts been taken for independent (empty where they are); and the share of A/A benchmarks in
    which a difference was called."""

    intervals: dict[str, float]
    ignoring_sources: dict[str, float]
    false_alarms: float


@dataclass(frozen=True)
class Design:
    """How many prompts a simulated benchmark has, and how many share a source: `per_source` each,
    or where `uneven` anything from one to twice that."""

    prompts: int
    per_source: int = 1
    uneven: bool = False

    def clusters(self, generator: np.random.Generator) -> npt.NDArray[np.int64]:
        """Cluster numbers, [prompts]."""
        if not self.uneven:
            return np.arange(self.prompts) // self.per_source
        sizes = generator.integers(1, 2 * self.per_source + 1, size=self.prompts)
        return np.repeat(np.arange(self.prompts), sizes)[: self.prompts]


def simulate(
    generator: np.random.Generator, design: Design, tuned_skill: float = TUNED_SKILL
) -> Simulated:
    """Draw a benchmark. With `tuned_skill` = BASE_SKILL it is the base against itself."""
    prompts, clusters = design.prompts, design.clusters(generator)
    shared = generator.normal(size=clusters[-1] + 1)[clusters]
    own = generator.normal(size=prompts)
    # A source explains half of the difficulty's variance; alone, a prompt is its own source.
    difficulty = (shared + own) / np.sqrt(2) if design.per_source > 1 else own
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


def covered(design: Design, *, benchmarks: int, resamples: int, seed: int) -> Coverage:
    """How often 95 % intervals hold the truth, and how often A/A shows a difference at 5 %."""
    generator = np.random.default_rng(seed)
    truth = _truth(simulate(generator, Design(_TRUTH_PROMPTS)))
    held, naive = dict.fromkeys(truth, 0), dict.fromkeys(truth, 0)
    alarms = 0
    for number in range(benchmarks):
        drawn = simulate(generator, design)
        bootstrap = Bootstrap(drawn.clusters, resamples=resamples, seed=seed + number)
        for name, estimate in _estimates(drawn, bootstrap).items():
            held[name] += estimate.low <= truth[name] <= estimate.high
        if design.per_source > 1:
            alone = replace(bootstrap, clusters=np.arange(design.prompts))
            for name, estimate in _estimates(drawn, alone).items():
                naive[name] += estimate.low <= truth[name] <= estimate.high
        same = simulate(generator, design, BASE_SKILL)
        alarms += _shows_difference(same, replace(bootstrap, clusters=same.clusters))
    return Coverage(
        {name: count / benchmarks for name, count in held.items()},
        {name: count / benchmarks for name, count in naive.items() if design.per_source > 1},
        alarms / benchmarks,
    )


def power_at_smallest(design: Design, *, benchmarks: int, resamples: int, seed: int) -> float:
    """How often a true difference as large as the smallest detectable one is shown.

    Benchmarks are drawn at several true differences; the share that shows one is read off where
    the true difference is the mean of what the benchmarks call the smallest detectable.
    """
    generator = np.random.default_rng(seed)
    surplus, shown = [], []
    for skill in BASE_SKILL + np.linspace(0.1, 0.9, 7):
        truth = _truth(simulate(generator, Design(_TRUTH_PROMPTS), float(skill)))["difference"]
        smallest, count = 0.0, 0
        for number in range(benchmarks):
            drawn = simulate(generator, design, float(skill))
            bootstrap = Bootstrap(drawn.clusters, resamples=resamples, seed=seed + number)
            differences = drawn.tuned - drawn.base
            smallest += significance.smallest_detectable(
                float((differences**2).mean()), intervals.effective_size(differences, bootstrap)
            )
            count += _shows_difference(drawn, bootstrap)
        surplus.append(truth - smallest / benchmarks)
        shown.append(count / benchmarks)
    return float(np.interp(0.0, surplus, shown))


def _truth(many: Simulated) -> dict[str, float]:
    losses = {"base": many.base_nll.sum(), "tuned": many.tuned_nll.sum()}
    tokens = many.tokens.sum()
    return {
        "accuracy": float(many.tuned.mean()),
        "difference": float(many.tuned.mean() - many.base.mean()),
        "perplexity": float(np.exp(losses["tuned"] / tokens)),
        "perplexity ratio": float(np.exp((losses["tuned"] - losses["base"]) / tokens)),
    }


def _estimates(drawn: Simulated, bootstrap: Bootstrap) -> dict[str, Estimate]:
    return {
        "accuracy": intervals.accuracy(drawn.tuned, bootstrap),
        "difference": intervals.paired_difference(drawn.tuned, drawn.base, bootstrap),
        "perplexity": intervals.perplexity(drawn.tuned_nll, drawn.tokens, bootstrap),
        "perplexity ratio": intervals.perplexity_ratio(
            drawn.tuned_nll, drawn.base_nll, drawn.tokens, bootstrap
        ),
    }


def _shows_difference(drawn: Simulated, bootstrap: Bootstrap) -> bool:
    """The verdict's rule: the interval excludes zero and the exact test agrees."""
    difference = intervals.paired_difference(drawn.tuned, drawn.base, bootstrap)
    net = np.bincount(drawn.clusters, weights=drawn.tuned - drawn.base)
    return significance.paired_p(net) < 0.05 and not difference.low <= 0.0 <= difference.high


def _logistic(values: Floats) -> Floats:
    return 1.0 / (1.0 + np.exp(-values))


@dataclass(frozen=True)
class GapDesign:
    """Each group's share of right answers under base and tuned; how many `prompts` a group has, and
    how many share a source."""

    base: tuple[float, ...]
    tuned: tuple[float, ...]
    prompts: int
    per_source: int = 1

    @property
    def widens(self) -> bool:
        return bool(np.ptp(self.tuned) - np.ptp(self.base) > 1e-9)


def share_widened(
    design: GapDesign, *, benchmarks: int, resamples: int, seed: int
) -> tuple[float, float]:
    """In which share of benchmarks a widened gap is shown, and in which the interval alone would
    have shown one."""
    generator = np.random.default_rng(seed)
    shown = by_interval = 0
    for number in range(benchmarks):
        found = _compare_drawn(generator, design, resamples, seed + number)
        shown += found.widened
        by_interval += found.change.low > 0
    return shown / benchmarks, by_interval / benchmarks


def _compare_drawn(
    generator: np.random.Generator, design: GapDesign, resamples: int, seed: int
) -> GapComparison:
    count = len(design.base)
    groups = np.repeat(np.arange(count), design.prompts)
    clusters = np.arange(len(groups)) // design.per_source
    luck = generator.random(clusters[-1] + 1)[clusters]
    return compare_gaps(
        base=(generator.random(len(groups)) < np.array(design.base)[groups]).astype(np.float64),
        tuned=(luck < np.array(design.tuned)[groups]).astype(np.float64),
        groups=groups,
        names=[f"group {number}" for number in range(count)],
        bootstrap=Bootstrap(clusters, resamples=resamples, seed=seed),
    )
