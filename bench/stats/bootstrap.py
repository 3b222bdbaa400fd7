"""Resampling of paired results, prompts that share a source kept together.

One prompt gives a pair of results, one per model. Prompts with the same source (pieces of one
document, paraphrases of one question) are not independent: they form a cluster, and clusters are
what is resampled and counted. Without sources every prompt is a cluster of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

_CHUNK_CELLS = 4_000_000  # resampling counts held at a time (32 MB)


@dataclass(frozen=True)
class Estimate:
    """A value with its confidence interval."""

    value: float
    low: float
    high: float


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
    """Resamples of clusters, and intervals made of them. `clusters`: each prompt's cluster,
    [prompts].

    All figures of one Bootstrap come from the same resamples, so that ratios and differences
    between them are paired.
    """

    clusters: IntArray
    confidence: float = 0.95
    resamples: int = 10_000
    seed: int = 0

    @cached_property
    def count(self) -> int:
        """How many clusters there are."""
        return int(self.clusters.max()) + 1

    def sums(self, columns: FloatArray) -> FloatArray:
        """Sums of each column over resamples of whole clusters: [prompts, columns] to
        [resamples, columns]."""
        per_cluster = np.zeros((self.count, columns.shape[1]))
        np.add.at(per_cluster, self.clusters, columns)
        return np.concatenate([draws @ per_cluster for draws in self._draws()])

    def ratio(
        self,
        numerator: FloatArray,
        denominator: FloatArray,
        shape: Callable[[FloatArray], FloatArray] = lambda ratios: ratios,
    ) -> Estimate:
        """shape(sum of numerator / sum of denominator) with its percentile interval."""
        columns = np.column_stack([numerator, denominator])
        sums = self.sums(columns)
        found = columns.sum(axis=0, keepdims=True)
        value = float(shape(found[:, 0] / found[:, 1])[0])
        return Estimate(value, *self.interval(shape(sums[:, 0] / sums[:, 1])))

    def mean(self, values: FloatArray) -> Estimate:
        """The mean with its percentile interval."""
        return self.ratio(values, np.ones_like(values))

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
