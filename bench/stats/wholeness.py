"""How near differences of scores are to those of right and wrong answers, each on its own.

Those are 0, 1 and -1: what is not seen differs no more than what is, so that counts of won and lost
(Tango's interval, McNemar's test) know how large it may be. Of scores that all differ a little the
same number says nothing of a kind that differs by 1; nor do sources that gain a little each say it
of one that loses all. What is inferred has to go over from the one to the other without a step: one
score of 0.99 among whole ones, or two prompts of one source, must not change a verdict.
"""

from __future__ import annotations

import numpy as np

from tuneserve.bench.stats.bootstrap import Bootstrap, FloatArray

SUPPOSED = 0.1
"""Of a whole difference, supposed beside those seen: where there are none, nothing is small."""
NEARLY = 8
"""Power of the wholeness: 0.99 of it is 0.92, that of JSON scores in quarters near 0.1."""
ALONE = 4
"""Power of the clusters by the prompts: two of 50 of one source leave 0.92, all in pairs 0.06."""


def wholeness(differences: FloatArray, sizes: FloatArray) -> FloatArray:
    """The mean size of what makes the differences, [..., clusters] of clusters of these sizes, each
    counted by its part: 1 where all are 0, 1 or -1, 0.1 where all are 0.1."""
    parts = np.abs(differences) * (sizes / sizes.mean())
    small = (parts * np.abs(differences)).sum(-1) + SUPPOSED
    found: FloatArray = small / (parts.sum(-1) + SUPPOSED)
    return found


def of_clusters(differences: FloatArray, bootstrap: Bootstrap) -> FloatArray:
    """The wholeness of the clusters' mean differences; `differences` are [..., prompts]."""
    return wholeness(bootstrap.by_cluster(differences) / bootstrap.sizes, bootstrap.sizes)


def nearly_whole(differences: FloatArray) -> FloatArray:
    """1 where all differences, [..., prompts], are whole, and soon 0 where they are not."""
    found: FloatArray = wholeness(differences, np.ones(differences.shape[-1])) ** NEARLY
    return found


def nearly_alone(bootstrap: Bootstrap) -> float:
    """1 where no prompts share a source, and soon 0 where they do."""
    return float((bootstrap.count / len(bootstrap.clusters)) ** ALONE)
