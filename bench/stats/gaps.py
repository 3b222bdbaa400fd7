"""How far apart the best and the worst group are, and whether the tune has widened that gap.

The difference between the best and the worst of several groups is biased upwards: noise alone makes
it positive, and more noise makes it larger. A base that answers nothing right has no gap; a tuned
model that is right four times in five in every group alike still shows one. Resampled gaps have
the same bias once more, so that intervals made of them hardly ever hold the truth: none is given.
That the gap has grown is tested by permutation: group labels are exchanged at random among prompts,
and the p value is the share of permutations in which the gap grows as much as observed. And it has
to have grown in nearly all resamples of the prompts too, which groups that differed before ask for:
labels exchanged at random are of groups that don't.

For the same reason each model's gap is given between shrunken group means: what noise within groups
explains of their differences is taken out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from tuneserve.bench.stats.bootstrap import Bootstrap, Estimate, FloatArray, IntArray
from tuneserve.bench.stats.intervals import FEWEST, mean_spread

SMALLEST_GROUP = 10
"""Prompts that a group needs to count as the best or the worst."""
NO_INTERVAL = "none holds for a best against a worst, which chance drives apart"
"""Why the change of a gap has none."""

_CHUNK_CELLS = 4_000_000


@dataclass(frozen=True)
class GapComparison:
    """The widest gap in accuracy between groups, before and after: `base` and `tuned` between
    shrunken means (`shrunken`), `observed_base` and `observed_tuned` between those observed, and
    `change` is of the observed, without an interval. `p`: the one-sided p of a permutation test
    that the gap has grown; `widened` if `p` and the resampled prompts agree. `worst_base` and
    `worst_tuned` name the groups answered worst; `left_out` those too small to be looked at."""

    base: float
    tuned: float
    change: Estimate
    p: float
    worst_base: str
    worst_tuned: str
    widened: bool
    observed_base: float = 0.0
    observed_tuned: float = 0.0
    left_out: list[str] = field(default_factory=list)


def compare_gaps(
    base: FloatArray,
    tuned: FloatArray,
    groups: IntArray,
    names: Sequence[str],
    bootstrap: Bootstrap,
    left_out: Sequence[str] = (),
) -> GapComparison:
    """The gap between best and worst group under both models, and how it changed.

    Scores and `groups`, numbers into `names`, are [prompts]; `bootstrap` resamples the prompts.
    `left_out` are the names of groups whose prompts are not among them.
    """
    members = np.eye(len(names))[groups]
    columns = np.hstack([base[:, None] * members, tuned[:, None] * members, members])
    base_sums, tuned_sums, sizes = np.split(columns.sum(0), 3)
    found_base, found_tuned = (float(gap[0]) for gap in _gaps(columns.sum(0)[None]))
    drawn_base, drawn_tuned = _gaps(bootstrap.sums(columns))
    least = bootstrap.interval(drawn_tuned - drawn_base)[0]
    values = np.column_stack([base, tuned, np.ones(len(groups))])
    p = _permutation_p(values, groups, bootstrap, found_tuned - found_base)
    return GapComparison(
        base=float(np.ptp(shrunken(base, groups, bootstrap))),
        tuned=float(np.ptp(shrunken(tuned, groups, bootstrap))),
        change=Estimate(found_tuned - found_base, why_not=NO_INTERVAL),
        p=p,
        worst_base=names[int((base_sums / sizes).argmin())],
        worst_tuned=names[int((tuned_sums / sizes).argmin())],
        widened=least > 0 and p < 1 - bootstrap.confidence,
        observed_base=found_base,
        observed_tuned=found_tuned,
        left_out=list(left_out),
    )


def shrunken(scores: FloatArray, groups: IntArray, bootstrap: Bootstrap) -> FloatArray:
    """Each group's mean score drawn towards the common one by the share of its variance that noise
    within the group explains, [groups].

    Empirical Bayes (Morris 1983, JASA 78:47); the variance between groups is DerSimonian &
    Laird's (1986, Control Clin Trials 7:177).
    """
    members = [groups == number for number in range(groups.max() + 1)]
    means = np.array([scores[inside].mean() for inside in members])
    noise = np.array([_noise(scores[inside], bootstrap.clusters[inside]) for inside in members])
    weights = 1 / noise
    common = float(weights @ means / weights.sum())
    excess = float(weights @ (means - common) ** 2) - (len(means) - 1)
    between = max(0.0, excess / float(weights.sum() - (weights**2).sum() / weights.sum()))
    weights = 1 / (between + noise)
    common = float(weights @ means / weights.sum())
    kept = between / (between + noise)
    shrunk: FloatArray = common + kept * (means - common)
    return shrunk


def _noise(scores: FloatArray, clusters: IntArray) -> float:
    """Variance of a group's mean score; of too few clusters as if they were prompts."""
    numbers = np.unique(clusters, return_inverse=True)[1]
    if numbers.max() + 1 < FEWEST:
        numbers = np.arange(len(scores))
    return float(mean_spread(scores, Bootstrap(numbers), usual=None)[1])


def _gaps(sums: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Best minus worst group's score under base and tuned, of rows [base, tuned, members]."""
    base, tuned, members = np.split(sums, 3, axis=1)
    # A group with no member in a resample is left out of it.
    sizes = np.where(members > 0, members, np.nan)
    base_gap, tuned_gap = (
        np.nanmax(part / sizes, 1) - np.nanmin(part / sizes, 1) for part in (base, tuned)
    )
    return base_gap, tuned_gap


def _permutation_p(
    values: FloatArray, groups: IntArray, bootstrap: Bootstrap, change: float
) -> float:
    """The share of permutations of the group labels in which the gap grows as much or more, the
    observed labels counted among them. `values` has a row [base, tuned, 1] for every prompt."""
    values, groups, blocks = _units(values, groups, bootstrap)
    generator = np.random.default_rng(bootstrap.seed)
    size = max(1, _CHUNK_CELLS // len(groups))
    extreme = 0
    for first in range(0, bootstrap.resamples, size):
        rows = min(size, bootstrap.resamples - first)
        # Sorting random numbers within each block shuffles it.
        order = np.argsort(blocks + generator.random((rows, len(groups))), axis=1)
        permuted = groups[order]
        parts = [(permuted == number).astype(np.float64) @ values for number in np.unique(groups)]
        base, tuned = _gaps(np.stack(parts, axis=2).reshape(rows, -1))
        extreme += int((tuned - base >= change - 1e-9).sum())
    return (extreme + 1) / (bootstrap.resamples + 1)


def _units(
    values: FloatArray, groups: IntArray, bootstrap: Bootstrap
) -> tuple[FloatArray, IntArray, IntArray]:
    """What has a group label: rows [base, tuned, prompts], the label of each, and the block within
    which labels are exchanged; sorted by block.

    The prompts of a source that lies in one group are one unit. Where a source has prompts in
    several groups (one question in several languages), each prompt is a unit, and labels are
    exchanged within the source only."""
    clusters = bootstrap.clusters
    pairs = np.unique(np.column_stack([clusters, groups]), axis=0)
    mixed = np.bincount(pairs[:, 0], minlength=bootstrap.count) > 1
    inside = mixed[clusters]
    whole = np.zeros((bootstrap.count, 3))
    np.add.at(whole, clusters[~inside], values[~inside])
    alone = pairs[~mixed[pairs[:, 0]]]
    blocks = np.concatenate([np.full(len(alone), -1), clusters[inside]])
    order = np.argsort(blocks, kind="stable")
    rows = np.concatenate([whole[alone[:, 0]], values[inside]])
    labels = np.concatenate([alone[:, 1], groups[inside]])
    return rows[order], labels[order], blocks[order]
