"""Paired results whose prompts may share a source, and resamples of them.

One prompt gives a pair of results, one per model. Prompts with the same source (pieces of one
document, paraphrases of one question) are not independent: they form a cluster, and clusters are
what is counted and resampled. Without sources every prompt is a cluster of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

_CHUNK_CELLS = 4_000_000  # resampling counts held at a time (32 MB)


@dataclass(frozen=True)
class Estimate:
    """A value with its confidence interval; `low` and `high` (or one of them, of perplexities) are
    None where the data allow no honest one, and `why_not` says what there is too little of
    ('2 sources')."""

    value: float
    low: float | None = None
    high: float | None = None
    why_not: str = ""


def cluster_numbers(sources: Sequence[str | None]) -> IntArray:
    """Number each prompt's cluster from 0: equal sources share one, None is alone."""
    numbers: dict[object, int] = {}
    return np.array(
        [
            numbers.setdefault(source if source is not None else ("alone", place), len(numbers))
            for place, source in enumerate(sources)
        ],
        dtype=np.int64,
    )


@dataclass(frozen=True)
class Bootstrap:
    """Clusters of prompts, the level of intervals made of them, and resamples of whole clusters.
    `clusters`: each prompt's cluster, [prompts]; `unit`: what a prompt is called in a sentence."""

    clusters: IntArray
    confidence: float = 0.95
    resamples: int = 10_000
    seed: int = 0
    unit: str = "prompt"

    @cached_property
    def count(self) -> int:
        """How many clusters there are."""
        return int(self.clusters.max()) + 1

    @property
    def clustered(self) -> bool:
        """Do prompts share sources?"""
        return self.count < len(self.clusters)

    @property
    def described(self) -> str:
        """What is counted as independent: '3 sources', '1 prompt'."""
        unit = "source" if self.clustered else self.unit
        return f"{self.count:,} {unit}{'' if self.count == 1 else 's'}"

    @cached_property
    def sizes(self) -> FloatArray:
        """Prompts of each cluster, [clusters]."""
        return np.bincount(self.clusters, minlength=self.count).astype(np.float64)

    def by_cluster(self, values: npt.ArrayLike) -> FloatArray:
        """Sums over each cluster's prompts: [..., prompts] to [..., clusters]."""
        array = np.asarray(values, dtype=np.float64)
        order = np.argsort(self.clusters, kind="stable")
        starts = np.searchsorted(self.clusters[order], np.arange(self.count))
        return np.add.reduceat(array[..., order], starts, axis=-1)

    def sums(self, columns: FloatArray) -> FloatArray:
        """Sums of each column over resamples of whole clusters: [prompts, columns] to
        [resamples, columns]."""
        per_cluster = self.by_cluster(columns.T).T
        return np.concatenate([draws @ per_cluster for draws in self._draws()])

    def interval(self, draws: FloatArray) -> tuple[float, float]:
        """The percentile interval of resampled values."""
        tail = (1 - self.confidence) / 2
        low, high = np.quantile(draws, [tail, 1 - tail])
        return float(low), float(high)

    def _draws(self) -> Iterator[FloatArray]:
        """How often each cluster is drawn, [some resamples, clusters], in chunks."""
        generator = np.random.default_rng(self.seed)
        size = max(1, _CHUNK_CELLS // self.count)
        shares = np.full(self.count, 1.0 / self.count)
        for first in range(0, self.resamples, size):
            rows = min(size, self.resamples - first)
            yield generator.multinomial(self.count, shares, size=rows).astype(np.float64)
