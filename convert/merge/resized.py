"""Tensors that no file holds as they are needed: an embedding with other rows, a bias of zeros."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from tuneserve.arrays import Floats
from tuneserve.convert.merge.four_bit import ReadableTensor
from tuneserve.convert.slabs import row_spans


@dataclass(frozen=True)
class ResizedTable:
    """The first `count` rows of an embedding or output; new ones are the mean of all it has, about
    which transformers draws them."""

    stored: ReadableTensor
    count: int

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.count, *self.stored.shape[1:])

    @property
    def dtype(self) -> str:
        return self.stored.dtype

    def rows(self, start: int = 0, stop: int | None = None) -> Floats:
        stop = self.count if stop is None else stop
        there = min(self.stored.shape[0], self.count)
        values = self.stored.rows(min(start, there), min(stop, there))
        if stop <= there:
            return values
        return np.concatenate([values, np.tile(self._mean, (stop - max(start, there), 1))])

    @cached_property
    def _mean(self) -> Floats:
        shape = self.stored.shape
        total = sum(self.stored.rows(*span).sum(axis=0, dtype=np.float64)
                    for span in row_spans(shape))  # fmt: skip
        mean: Floats = (total / shape[0]).astype(np.float32)
        return mean


@dataclass(frozen=True)
class Zeros:
    """A bias that the base has not."""

    shape: tuple[int, ...]
    dtype: str

    def rows(self, start: int = 0, stop: int | None = None) -> Floats:
        return np.zeros(self.shape, dtype=np.float32)[start:stop]
