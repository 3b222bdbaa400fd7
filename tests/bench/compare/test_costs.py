"""What answers cost follows from the speed, and is not made up."""

from __future__ import annotations

import pytest

from tuneserve.bench.compare.costs import costs_of
from tuneserve.bench.measure.clients import Load
from tuneserve.bench.measure.speed import Rate
from tuneserve.settings import BenchSettings


def test_costs_are_those_of_the_time_that_answers_take() -> None:
    # 32,000 tokens at 32 a second take 1,000 seconds.
    load = [Load(4, Rate(32.0, 2.0, 256, 3), 0.1, 0.2, 24)]
    assert costs_of(load, BenchSettings()) == []
    (cost,) = costs_of(load, BenchSettings(price=3.6, watts=100))
    assert cost.money is not None
    assert cost.energy is not None
    assert cost.money.value == pytest.approx(1.0)
    assert cost.energy.value == pytest.approx(0.1 * 1000 / 3600)
    # Student's quantile for 2 degrees of freedom is 4.3027.
    half = 4.302653 * 2.0 / 3**0.5
    assert cost.money.low == pytest.approx(32 / (32 + half), rel=1e-6)
    assert cost.money.high == pytest.approx(32 / (32 - half), rel=1e-6)
    assert costs_of(load, BenchSettings(watts=100))[0].money is None
