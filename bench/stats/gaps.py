"""How far apart the best and the worst group are, and whether the tune has widened that.

The difference between a best and a worst is found too large by chance alone, and the more so the
noisier the scores: a base that answers nothing has no gap, a tune that answers four of five alike
in all groups has one. So an interval does not do; what is found is held against what comes out
when the groups are dealt anew.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from tuneserve.bench.compare.results import GapComparison
from tuneserve.bench.stats.bootstrap import Bootstrap, Estimate, FloatArray, IntArray

_CHUNK_CELLS = 4_000_000


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
    p = _dealt_p(scores, found_tuned - found_base)
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
    # A group that a resample left out says nothing there.
    sizes = np.where(members > 0, members, np.nan)
    low_high = [(np.nanmin(part / sizes, 1), np.nanmax(part / sizes, 1)) for part in (base, tuned)]
    return low_high[0][1] - low_high[0][0], low_high[1][1] - low_high[1][0]


def _dealt_p(scores: GroupScores, change: float) -> float:
    """How often the gap grows as much or more when prompts are dealt to the groups anew, the
    observed dealing counted among them."""
    extreme = 0
    for sums in _dealt_sums(_units(scores), len(scores.names), scores.bootstrap):
        base, tuned = _gaps(sums)
        extreme += int((tuned - base >= change - 1e-9).sum())
    return (extreme + 1) / (scores.bootstrap.resamples + 1)


@dataclass(frozen=True)
class _Units:
    """What is dealt to the groups: rows [base, tuned, prompts], the group each has, and the block
    within which groups are exchanged; sorted by block."""

    values: FloatArray
    groups: IntArray
    blocks: IntArray


def _units(scores: GroupScores) -> _Units:
    """Sources that are in one group are dealt whole; where a source has prompts in several groups
    (one question in several languages), the groups change places within it."""
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


def _dealt_sums(units: _Units, count: int, bootstrap: Bootstrap) -> Iterator[FloatArray]:
    """Rows [base, tuned, members] of the groups dealt anew, some of `resamples` at a time."""
    generator = np.random.default_rng(bootstrap.seed)
    size = max(1, _CHUNK_CELLS // len(units.groups))
    for first in range(0, bootstrap.resamples, size):
        rows = min(size, bootstrap.resamples - first)
        # Sorting random numbers within each block shuffles it.
        order = np.argsort(units.blocks + generator.random((rows, len(units.groups))), axis=1)
        groups = units.groups[order]
        parts = [(groups == number).astype(np.float64) @ units.values for number in range(count)]
        yield np.stack(parts, axis=2).reshape(rows, 3 * count)
