"""What answers cost, from the measured speed: only where a price or a power is given."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tuneserve.bench.compare.beside import Cost
from tuneserve.bench.measure.clients import ANSWER_TOKENS, Load
from tuneserve.bench.stats.bootstrap import Estimate
from tuneserve.settings import BenchSettings

ANSWERS = 1000


def costs_of(load: Sequence[Load], settings: BenchSettings) -> list[Cost]:
    """The costs of 1,000 answers at each number of clients; none where nothing is given."""
    if not (settings.price or settings.watts):
        return []
    costs = []
    for level in load:
        low, high = level.throughput.interval(settings.confidence)
        # Fast answers are cheap: the ends of the interval change places.
        hours = [_hours(rate) for rate in (level.throughput.mean, high, low)]
        costs.append(
            Cost(
                level.clients,
                ANSWER_TOKENS,
                _times(hours, settings.price),
                _times(hours, settings.watts / 1000),
            )
        )
    return costs


def _hours(rate: float) -> float:
    return ANSWERS * ANSWER_TOKENS / rate / 3600 if rate else float("inf")


def _times(hours: Sequence[float], factor: float) -> Estimate | None:
    if not factor:
        return None
    value, low, high = (factor * each for each in hours)
    if not math.isfinite(high):
        return Estimate(value, why_not="the speed varies too much")
    return Estimate(value, low, high)
