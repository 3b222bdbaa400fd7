"""Is a model as often right as it is sure? Bins of a reliability diagram, and ECE."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tuneserve.bench.stats.bootstrap import Bootstrap, Estimate, FloatArray
from tuneserve.bench.stats.classes import Mask, share_among

BINS = 10


@dataclass(frozen=True)
class Bin:
    """Prompts whose likeliest choice has a probability in (low, high]: how many, how sure the
    model was on average, and how often it was right."""

    low: float
    high: float
    prompts: int
    sure: float
    right: Estimate


@dataclass(frozen=True)
class Calibration:
    """A model's bins that hold a prompt, and its expected calibration error (ECE, Naeini et al.
    2015): the mean distance of being sure from being right, weighed by prompts."""

    model: str
    bins: list[Bin]
    ece: float


def calibrate(model: str, sure: FloatArray, right: FloatArray, bootstrap: Bootstrap) -> Calibration:
    """`sure`: the probability of the model's answer, `right`: 1 or 0; [prompts] each. Bins are
    equally wide."""
    numbers = np.clip(np.ceil(sure * BINS).astype(int) - 1, 0, BINS - 1)
    bins = [_bin(int(n), numbers == n, sure, right, bootstrap) for n in np.unique(numbers)]
    distance = sum(part.prompts * abs(part.sure - part.right.value) for part in bins)
    return Calibration(model, bins, float(distance / len(sure)))


def _bin(number: int, held: Mask, sure: FloatArray, right: FloatArray, bootstrap: Bootstrap) -> Bin:
    share = share_among(right, held, bootstrap)
    assert share is not None
    low, high = number / BINS, (number + 1) / BINS
    return Bin(low, high, int(held.sum()), float(sure[held].mean()), share)
