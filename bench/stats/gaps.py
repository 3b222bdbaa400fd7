"""How far apart the best and the worst group are, and whether the tune has widened that gap.

The difference between the best and the worst of several groups is biased upwards: noise alone makes
it positive, and more noise makes it larger. A base that answers nothing right has no gap; a tuned
model that is right four times in five in every group alike still shows one. A bootstrap interval
of the change has the same bias. So the change is also tested by permutation: group labels are
exchanged at random among prompts, and the p value is the share of permutations in which the gap
grows as much as observed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from tuneserve.bench.stats.bootstrap import Bootstrap, Estimate, FloatArray, IntArray

_CHUNK_CELLS = 4_000_000


@dataclass(frozen=True)
class GapComparison:
    """The widest gap in accuracy between groups, before and after. `p`: the one-sided p of a
    permutation test that the gap has grown; `widened` if the change's interval is above zero and
    `p` agrees. `worst_base` and `worst_tuned` name the groups answered worst."""

    base: float
    tuned: float
    change: Estimate
    p: float
    worst_base: str
    worst_tuned: str
    widened: bool


@dataclass(frozen=True)
class GroupScores:
    """Both models' scores, [prompts] each; the prompts' groups as numbers into `names`, and what
    they are resampled by."""

    base: FloatArray
    tuned: FloatArray
    groups: IntArray
    names: Sequence[str]
    bootstrap: Bootstrap


def compare_gaps(scores: GroupScores) -> GapComparison:
    """The gap between best and worst group under both models, and how it changed."""
    count = len(scores.names)
    members = np.eye(count)[scores.groups]
    columns = np.hstack([scores.base[:, None] * members, scores.tuned[:, None] * members, members])
    base, tuned, sizes = np.split(columns.sum(0), 3)
    found_base, found_tuned = (float(gap[0]) for gap in _gaps(columns.sum(0)[None]))
    drawn_base, drawn_tuned = _gaps(scores.bootstrap.sums(columns))
    low, high = scores.bootstrap.interval(drawn_tuned - drawn_base)
    p = _permutation_p(scores, found_tuned - found_base)
    return GapComparison(
        base=found_base,
        tuned=found_tuned,
        change=Estimate(found_tuned - found_base, low, high),
        p=p,
        worst_base=scores.names[int((base / sizes).argmin())],
        worst_tuned=scores.names[int((tuned / sizes).argmin())],
        widened=low > 0 and p < 1 - scores.bootstrap.confidence,
    )


def _gaps(sums: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Best minus worst group's score under base and tuned, of rows [base, tuned, members]."""
    base, tuned, members = np.split(sums, 3, axis=1)
    # A group with no member in a resample is left out of it.
    sizes = np.where(members > 0, members, np.nan)
    low_high = [(np.nanmin(part / sizes, 1), np.nanmax(part / sizes, 1)) for part in (base, tuned)]
    return low_high[0][1] - low_high[0][0], low_high[1][1] - low_high[1][0]


def _permutation_p(scores: GroupScores, change: float) -> float:
    """The share of permutations of the group labels in which the gap grows as much or more, the
    observed labels counted among them."""
    extreme = 0
    for sums in _permuted_sums(_units(scores), len(scores.names), scores.bootstrap):
        base, tuned = _gaps(sums)
        extreme += int((tuned - base >= change - 1e-9).sum())
    return (extreme + 1) / (scores.bootstrap.resamples + 1)


@dataclass(frozen=True)
class _Units:
    """The units whose group labels are permuted: rows [base, tuned, prompts], the label of each,
    and the block within which labels are exchanged; sorted by block."""

    values: FloatArray
    groups: IntArray
    blocks: IntArray


def _units(scores: GroupScores) -> _Units:
    """The prompts of a source that lies in one group are one unit. Where a source has prompts in
    several groups (one question in several languages), each prompt is a unit, and labels are
    exchanged within the source only."""
    clusters, groups = scores.bootstrap.clusters, scores.groups
    pairs = np.unique(np.column_stack([clusters, groups]), axis=0)
    mixed = np.bincount(pairs[:, 0], minlength=scores.bootstrap.count) > 1
    values = np.column_stack([scores.base, scores.tuned, np.ones(len(groups))])
    inside = mixed[clusters]
    whole = np.zeros((scores.bootstrap.count, 3))
    np.add.at(whole, clusters[~inside], values[~inside])
    alone = pairs[~mixed[pairs[:, 0]]]
    blocks = np.concatenate([np.full(len(alone), -1), clusters[inside]])
    order = np.argsort(blocks, kind="stable")
    return _Units(
        np.concatenate([whole[alone[:, 0]], values[inside]])[order],
        np.concatenate([alone[:, 1], groups[inside]])[order],
        blocks[order],
    )


def _permuted_sums(units: _Units, count: int, bootstrap: Bootstrap) -> Iterator[FloatArray]:
    """Rows [base, tuned, members] of the groups under permuted labels, some of `resamples` at a
    time."""
    generator = np.random.default_rng(bootstrap.seed)
    size = max(1, _CHUNK_CELLS // len(units.groups))
    for first in range(0, bootstrap.resamples, size):
        rows = min(size, bootstrap.resamples - first)
        # Sorting random numbers within each block shuffles it.
        order = np.argsort(units.blocks + generator.random((rows, len(units.groups))), axis=1)
        groups = units.groups[order]
        parts = [(groups == number).astype(np.float64) @ units.values for number in range(count)]
        yield np.stack(parts, axis=2).reshape(rows, 3 * count)
