"""Simulated benchmarks with a known truth, many at a time: arrays are [benchmarks, prompts].

Prompts of one source share an effect on the logit of being right, on the logarithm of the loss or
on the score, as large as what each prompt has of its own or larger; without sources every prompt
stands alone. `DRAWS` has what is drawn, by name.

And benchmarks of groups whose gap is known: is "widened" said only where it widens? Each group has
a share of right answers under either model, the same for all its prompts; prompts of one source get
the tuned model's answers right together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache

import numpy as np
import numpy.typing as npt

from tuneserve.bench.stats import intervals, perplexities, significance
from tuneserve.bench.stats.bootstrap import Bootstrap
from tuneserve.bench.stats.gaps import GapComparison, compare_gaps
from tuneserve.bench.stats.proportions import Ends

Floats = npt.NDArray[np.float64]
PER_SOURCE = 20
BATCH = 250  # benchmarks with sources of unequal sizes that share the sizes
_MANY = 2_000_000


@dataclass(frozen=True)
class Design:
    """`kind`: a name in DRAWS; so many `prompts` on their own, or `sources` of PER_SOURCE prompts
    each, or where `uneven` of sizes whose logarithm has a standard deviation of 0.8."""

    kind: str
    prompts: int = 0
    sources: int = 0
    uneven: bool = False

    def clusters(self, generator: np.random.Generator) -> npt.NDArray[np.int64]:
        """Cluster numbers, [prompts]."""
        if not self.sources:
            return np.arange(self.prompts)
        sizes = np.full(self.sources, float(PER_SOURCE))
        if self.uneven:
            sizes = np.maximum(1, np.round(sizes * np.exp(generator.normal(0, 0.8, self.sources))))
        return np.repeat(np.arange(self.sources), sizes.astype(int))


@dataclass(frozen=True)
class Found:
    """Of all benchmarks of a design: share whose interval held the truth, share of intervals of no
    width, whether none was given; share in which a difference was called (None: no such test).
    Where few prompts are of a rare kind: share that shows it, and of those that held the truth."""

    design: Design
    covered: float
    no_width: float
    refused: bool
    called: float | None
    shown: float | None = None
    covered_if_shown: float | None = None


class Source:
    """Draws of one shape, [benchmarks, prompts], with effects that prompts of a source share."""

    def __init__(
        self, generator: np.random.Generator, benchmarks: int, clusters: npt.NDArray[np.int64]
    ) -> None:
        self.random = generator
        self.shape = (benchmarks, len(clusters))
        self.clusters = clusters
        self.alone = clusters[-1] + 1 == len(clusters)

    def effect(self, size: float) -> Floats:
        """A normal effect of each source; 0 where prompts stand alone."""
        if self.alone:
            return np.zeros((1, 1))
        drawn = self.random.normal(0, size, (self.shape[0], self.clusters[-1] + 1))
        shared: Floats = drawn[:, self.clusters]
        return shared

    def chance(self, share: float, effect: float = 1.0) -> Floats:
        """Where something happens that happens to this share of prompts, more in some sources."""
        raised = math.log(share / (1 - share)) + self.effect(effect)
        return (self.random.random(self.shape) < 1 / (1 + np.exp(-raised))).astype(np.float64)

    def sign(self, positive: float) -> Floats:
        return np.where(self.random.random(self.shape) < positive, 1.0, -1.0)


def _share(share: float) -> Callable[[Source], Floats]:
    return lambda source: source.chance(share)


def _paired(won: float, lost: float) -> Callable[[Source], Floats]:
    """Differences of right or wrong: that share of prompts is won, that share lost."""
    together = won + lost
    return lambda source: source.chance(together) * source.sign(won / together)


def _json(share: float, positive: float) -> Callable[[Source], Floats]:
    """Differences of JSON scores, fields of which some are equal: few prompts differ."""

    def draw(source: Source) -> Floats:
        sizes = source.random.choice([0.25, 0.5, 1.0], source.shape)
        differences: Floats = source.chance(share) * source.sign(positive) * sizes
        return differences

    return draw


def _continuous(source: Source) -> Floats:
    """Differences of ROUGE or chrF: every prompt differs a little."""
    return np.clip(0.05 + source.effect(0.1) + source.random.normal(0, 0.15, source.shape), -1, 1)


def _nearly_whole(source: Source) -> Floats:
    """JSON scores of which most are 1."""
    scores: Floats = 1 - source.chance(0.05) * source.random.choice([0.25, 0.5, 1.0], source.shape)
    return scores


def _beta(source: Source) -> Floats:
    centre = 1 / (1 + np.exp(-(source.effect(0.7) - 0.5)))
    return source.random.beta(4 * centre, 4 * (1 - centre), source.shape)


def _lognormal(sigma: float) -> Callable[[Source], Floats]:
    """Mean loss of a prompt's tokens; of sources half of its variance."""

    def draw(source: Source) -> Floats:
        own = sigma if source.alone else sigma / math.sqrt(2)
        effect = source.effect(sigma / math.sqrt(2))
        return np.exp(effect + source.random.normal(0, own, source.shape))

    return draw


def _certain(source: Source) -> Floats:
    """Losses of a classifier that is mostly certain: minus the log of a logistic probability."""
    return np.log1p(np.exp(source.effect(1.0) + source.random.normal(-2, 2, source.shape)))


def _gamma(source: Source) -> Floats:
    return source.random.gamma(1.0, 1.0, source.shape) * np.exp(source.effect(0.5))


def _t3(source: Source) -> Floats:
    """Difference of two models' losses a token, with the noise of Student's t with 3 degrees."""
    return 0.05 + 0.3 * source.effect(1.0) + 0.3 * source.random.standard_t(3, source.shape)


@dataclass(frozen=True)
class Kind:
    """What is drawn: scores or losses a token; how its interval is made; `discrete` where the
    figure takes so few values that no interval holds the truth exactly 95 times in 100; `rare`:
    which of the drawn are of the kind that few prompts are of; `lengths`: standard deviation of
    the logarithm of answers' lengths (0: about 4 tokens each)."""

    quantity: str
    about: str
    draw: Callable[[Source], Floats]
    discrete: bool = False
    rare: Callable[[Floats], npt.NDArray[np.bool_]] | None = None
    lengths: float = 0.0

    def tokens(self, generator: np.random.Generator, shape: tuple[int, ...]) -> Floats:
        if not self.lengths:
            return 1.0 + generator.poisson(3.0, shape).astype(np.float64)
        return np.ceil(np.exp(generator.normal(3.0, self.lengths, shape)))


ACCURACY, PAIRED = "accuracy", "difference, right or wrong"
SCORE, GRADED = "mean score", "difference, graded"
PERPLEXITY, RATIO = "perplexity", "perplexity ratio"
DRAWS = {
    "p .01": Kind(ACCURACY, "1 % right", _share(0.01), True),
    "p .1": Kind(ACCURACY, "10 % right", _share(0.1), True),
    "p .5": Kind(ACCURACY, "50 % right", _share(0.5), True),
    "p .95": Kind(ACCURACY, "95 % right", _share(0.95), True),
    "p .99": Kind(ACCURACY, "99 % right", _share(0.99), True),
    "paired .02": Kind(PAIRED, "2 % won, 2 % lost", _paired(0.02, 0.02), True),
    "paired .1": Kind(PAIRED, "10 % won, 5 % lost", _paired(0.10, 0.05), True),
    "paired .3": Kind(PAIRED, "30 % won, 30 % lost", _paired(0.3, 0.3), True),
    "paired .9": Kind(PAIRED, "90 % won, 2 % lost", _paired(0.9, 0.02), True),
    "beta": Kind(SCORE, "continuous", _beta),
    "nearly": Kind(SCORE, "95 % are 1", _nearly_whole, True),
    "continuous": Kind(GRADED, "all differ", _continuous),
    "json .3": Kind(GRADED, "30 % differ, 3 in 4 for the better", _json(0.3, 0.75), True),
    "json .1": Kind(GRADED, "10 % differ, 3 in 4 for the better", _json(0.1, 0.75), True),
    "json .1 up": Kind(GRADED, "10 % differ, all for the better", _json(0.1, 1.0), True),
    "json .05": Kind(GRADED, "5 % differ, 3 in 4 for the better", _json(0.05, 0.75), True),
    "json same": Kind(GRADED, "10 % differ, half for the better", _json(0.1, 0.5), True),
    "lognormal .5": Kind(PERPLEXITY, "losses lognormal, sigma 0.5", _lognormal(0.5)),
    "lognormal 1": Kind(PERPLEXITY, "losses lognormal, sigma 1", _lognormal(1.0)),
    "lognormal 1.5": Kind(PERPLEXITY, "losses lognormal, sigma 1.5", _lognormal(1.5)),
    "gamma": Kind(PERPLEXITY, "losses exponential", _gamma),
    "certain": Kind(PERPLEXITY, "a classifier's losses", _certain),
    "t3": Kind(RATIO, "noise t with 3 degrees of freedom", _t3),
}


def find(
    design: Design, *, benchmarks: int, seed: int = 0, kinds: Mapping[str, Kind] = DRAWS
) -> Found:
    """How often the interval holds the truth, and how often a difference is called."""
    generator = np.random.default_rng([seed, *design.kind.encode(), design.prompts, design.sources])
    kind = kinds[design.kind]
    truth = _truth(kind, bool(design.sources))
    held, flat, called, shown, held_shown, done = 0, 0, 0, 0, 0, 0
    while done < benchmarks:
        count = min(BATCH, benchmarks - done) if design.uneven else benchmarks
        bootstrap = Bootstrap(design.clusters(generator))
        if design.uneven and intervals.lopsided(bootstrap.sizes, bootstrap):
            continue  # no interval is given
        drawn = kind.draw(Source(generator, count, bootstrap.clusters))
        tokens = kind.tokens(generator, drawn.shape)
        if kind.quantity not in (ACCURACY, PAIRED) and bootstrap.count < intervals.FEWEST:
            return Found(design, 0.0, 0.0, refused=True, called=None)
        low, high = ends(kind.quantity, drawn, tokens, bootstrap)
        holds = (low <= truth) & (truth <= high)
        held += int(holds.sum())
        flat += int((low == high).sum())
        if kind.quantity in (PAIRED, GRADED):
            undoing = significance.undoing_of(drawn, bootstrap)
            apart = (low > undoing) | (high < -undoing)
            called += int((apart & (p_values(drawn, bootstrap) < 0.05)).sum())
        if kind.rare:
            showing = kind.rare(drawn).any(-1)
            shown += int(showing.sum())
            held_shown += int((holds & showing).sum())
        done += count
    tested = kind.quantity in (PAIRED, GRADED)
    return Found(
        design,
        held / done,
        flat / done,
        refused=False,
        called=called / done if tested else None,
        shown=shown / done if kind.rare else None,
        covered_if_shown=held_shown / shown if shown else None,
    )


def ends(quantity: str, drawn: Floats, tokens: Floats, bootstrap: Bootstrap) -> Ends:
    """The interval that a report gives for such a quantity."""
    if quantity == ACCURACY:
        return intervals.right_ends(drawn, bootstrap)
    if quantity in (PAIRED, GRADED):
        return intervals.difference_ends(drawn, bootstrap)
    if quantity == SCORE:
        return intervals.mean_ends(drawn, bootstrap, bounds=(0.0, 1.0))
    if quantity == PERPLEXITY:
        return perplexities.perplexity_ends(drawn * tokens, tokens, bootstrap)
    return perplexities.ratio_ends(drawn * tokens, tokens, bootstrap)


def p_values(differences: Floats, bootstrap: Bootstrap) -> Floats:
    """The verdict's p of every benchmark."""
    net = bootstrap.by_cluster(differences)
    if not (differences == np.round(differences)).all():
        return significance.flip_p(net, flips=4000)
    return np.array([_whole_p(tuple(row)) for row in net.astype(int)])


@lru_cache(maxsize=100_000)
def _counted_p(won: int, lost: int) -> float:
    return significance.mcnemar_exact(won, lost)


def _whole_p(net: tuple[int, ...]) -> float:
    if max(map(abs, net)) <= 1:
        return _counted_p(net.count(1), net.count(-1))
    return significance.paired_p(np.array(net))


@cache
def _truth(kind: Kind, sources: bool) -> float:
    """Of one benchmark of very many prompts, each of a source of its own where there are any."""
    source = Source(np.random.default_rng(1), 1, np.arange(_MANY))
    source.alone = not sources
    mean = float(kind.draw(source).mean())
    return math.exp(mean) if kind.quantity in (PERPLEXITY, RATIO) else mean


@dataclass(frozen=True)
class PowerDesign:
    """So many prompts alone, or `sources` of PER_SOURCE; of a share `differ` the scores differ, by
    1 if `whole`, else by some fields of JSON; tested at `level`."""

    prompts: int
    sources: int
    differ: float
    whole: bool
    level: float

    def draw(self, generator: np.random.Generator, benchmarks: int, positive: float) -> Floats:
        clusters = Design("", self.prompts, self.sources).clusters(generator)
        source = Source(generator, benchmarks, clusters)
        drawn = source.chance(self.differ) * source.sign(positive)
        return drawn if self.whole else drawn * generator.choice([0.25, 0.5, 1.0], drawn.shape)


def power_at_smallest(design: PowerDesign, *, benchmarks: int, seed: int = 0) -> float:
    """How often a true difference as large as the smallest detectable one is shown.

    Benchmarks are drawn at several true differences; the share that shows one is read off where
    the true difference is the mean of what the benchmarks call the smallest detectable.
    """
    generator = np.random.default_rng(seed)
    bootstrap = Bootstrap(Design("", design.prompts, design.sources).clusters(generator))
    surplus, shown = [], []
    for positive in np.linspace(0.52, 1.0, 9):
        drawn = design.draw(generator, benchmarks, float(positive))
        interval = intervals.difference_ends(drawn, bootstrap)
        undoing = significance.undoing_of(drawn, bootstrap)
        if design.whole and not design.sources:
            counts, often = np.unique((drawn != 0).sum(-1), return_counts=True)
            size = [
                significance.detectable_pairs(count / design.prompts, design.prompts, design.level)
                for count in counts
            ]
            smallest = float(np.average(size, weights=often))
        else:
            found = significance.detectable_mean(drawn, interval, bootstrap, design.level, undoing)
            smallest = float(found.mean())
        called = ((interval[0] > undoing) | (interval[1] < -undoing)) & (
            p_values(drawn, bootstrap) < design.level
        )
        surplus.append(float(drawn.mean()) - smallest)
        shown.append(float(called.mean()))
    return float(np.interp(0.0, surplus, shown, left=np.nan, right=np.nan))


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


@dataclass(frozen=True)
class GapFound:
    """Share of benchmarks in which a widened gap is shown; the tuned model's gap on average, as
    given and as observed."""

    widened: float
    given: float
    observed: float


def find_gap(design: GapDesign, *, benchmarks: int, resamples: int, seed: int) -> GapFound:
    """What is said of many benchmarks of one design."""
    generator = np.random.default_rng(seed)
    found = [
        _compare_drawn(generator, design, resamples, seed + number) for number in range(benchmarks)
    ]
    return GapFound(
        widened=float(np.mean([gap.widened for gap in found])),
        given=float(np.mean([gap.tuned for gap in found])),
        observed=float(np.mean([gap.observed_tuned for gap in found])),
    )


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
