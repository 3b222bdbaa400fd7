"""Charts: axes, marks in their places, and a loss chart of whatever training recorded."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from tuneserve.charts import LossCurves, Mark, Scale, loss_chart, scale_over, smoothed, strip


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=8))
def test_a_scale_holds_its_values(values: list[float]) -> None:
    scale = scale_over(values)
    slack = 1e-9 * max(1.0, *map(abs, values))
    assert scale.low - slack <= min(values) <= max(values) <= scale.high + slack
    assert 2 <= len(scale.ticks) <= 9
    assert [scale.percent(end) for end in (scale.low, scale.high)] == [0.0, 100.0]


@given(st.floats(1e-3, 1e6))
def test_ticks_from_zero_are_few_and_round(highest: float) -> None:
    found = scale_over([0.0, highest]).ticks
    assert found[0] == 0
    assert 2 <= len(found) <= 8
    assert float(f"{found[1]:.2g}") == float(f"{found[1]:.12g}")


def test_a_strip_places_its_marks() -> None:
    scale = Scale(0.0, 1.0, [0.0, 1.0])
    svg = strip(scale, [Mark(0.5, 0.25, 0.75, "tuned")], "a < b")
    assert 'd="M25.0 10.0H75.0"' in svg
    assert 'd="M50.0 10.0h.01"' in svg
    assert "a &lt; b" in svg


def test_a_loss_chart_has_every_curve_and_every_evaluation() -> None:
    train = [(step, 3.0 / step) for step in range(1, 61)]
    curves = LossCurves(train, [(0, 2.5), (60, 0.25)], [(0, 1.0), (60, 1.5)], 60)
    chart = loss_chart(curves)
    assert re.findall(r'<path class="line (\w+)"', chart) == ["step", "base", "tuned", "general"]
    assert re.findall(r"<title>(step \d+: [\d.]+)</title>", chart) == [
        "step 0: 2.5000", "step 60: 0.2500", "step 0: 1.0000", "step 60: 1.5000",
    ]  # fmt: skip
    assert "mean of 3 steps" in chart
    assert "weights kept (step 60)" in chart
    assert '<path class="best" d="M100.0 0V100"/>' in chart


def test_a_loss_that_is_not_finite_is_left_out() -> None:
    chart = loss_chart(LossCurves([(1, float("nan")), (2, 1.0)], [], [], None))
    assert "nan" not in chart
    assert chart.count('class="line step"') == 1


def test_a_mean_is_of_the_values_before() -> None:
    assert smoothed([(1, 4.0), (2, 2.0), (3, 0.0)], 2) == [(1, 4.0), (2, 3.0), (3, 1.0)]
