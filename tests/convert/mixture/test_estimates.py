"""What types cost: a base's own grid, on which the tune is lost, is no bargain."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from tuneserve.arrays import Floats
from tuneserve.convert.mixture.estimates import Estimates
from tuneserve.convert.mixture.roundings import Rounding, TensorRoundings, measure_roundings
from tuneserve.llama import ggml

GRID, NEAR, FINE = "Q4_0", "IQ4_NL", "Q8_0"
ROUNDINGS = {
    name: TensorRoundings(
        {GRID: Rounding(0.001, 0.05), NEAR: Rounding(4.0, 0.9), FINE: Rounding(0.1)}, change=0.001
    )
    for name in ("a", "b", "c")
}


@dataclass(frozen=True)
class Rows:
    values: Floats

    @property
    def shape(self) -> tuple[int, ...]:
        return self.values.shape

    def rows(self, start: int, stop: int) -> Floats:
        return self.values[start:stop]


def estimates(half_lost: float = 0.1) -> Estimates:
    found = Estimates([["a"], ["b", "c"]], ROUNDINGS, dict.fromkeys("abc", (64, 32)), half_lost)
    found.start([0.02, 0.03])
    return found


def harms(found: Estimates, name: str, *, keeping: bool = False) -> dict[str, float]:
    return {option.type: option.harm for option in found.options(name, keeping=keeping)}


def test_a_group_is_tried_in_a_type_off_the_bases_grid() -> None:
    assert estimates().probes(1) == {"b": NEAR, "c": NEAR}


def test_a_type_that_loses_the_tune_costs_it_and_is_no_option() -> None:
    found = estimates()
    costs = harms(found, "a")
    assert costs[GRID] > costs[NEAR] > costs[FINE] > 0
    # Of all three tensors together: nearly all that there is to lose.
    lost = sum(harms(found, name)[GRID] for name in "abc")
    assert lost == pytest.approx(0.1 / 0.25 * 0.95**2, rel=0.01)
    assert set(harms(found, "a", keeping=True)) == {NEAR, FINE}


def test_a_measured_harm_replaces_the_estimate_of_the_types_measured() -> None:
    found = estimates(half_lost=0.0)
    before = harms(found, "b")
    assert before[NEAR] + harms(found, "c")[NEAR] == pytest.approx(0.03)
    found.correct(1, {"b": NEAR, "c": NEAR}, 0.06)
    after = harms(found, "b")
    assert after[NEAR] == pytest.approx(2 * before[NEAR])
    assert after[FINE] == before[FINE]
    assert harms(found, "a") == harms(estimates(half_lost=0.0), "a")


def test_what_a_type_keeps_of_a_change() -> None:
    random = np.random.default_rng(0)
    loose, change = (random.standard_normal((64, 64), dtype=np.float32) for _ in range(2))
    on_grid = ggml.dequantize(ggml.quantize(loose, "Q4_1"), "Q4_1", 64).reshape(64, 64)
    before = {"loose": Rows(loose), "on_grid": Rows(on_grid)}
    after = {name: Rows(rows.values + 0.02 * change) for name, rows in before.items()}
    weights = {"on_grid": np.linspace(0.1, 2, 64, dtype=np.float32)}
    found = measure_roundings(
        after, dict.fromkeys(after, ("Q4_1", "Q8_0")), weights, before, threads=1
    )
    kept = {name: {k: r.kept for k, r in one.types.items()} for name, one in found.items()}
    assert kept["on_grid"]["Q4_1"] < 0.2
    assert kept["loose"]["Q4_1"] == pytest.approx(1, abs=0.3)
    assert all(one["Q8_0"] == pytest.approx(1, abs=0.05) for one in kept.values())
    assert found["loose"].change == pytest.approx(0.0004 * 64 * 64, rel=0.1)
    (untouched,) = measure_roundings(
        {"loose": Rows(loose)}, {"loose": ("Q4_1",)}, {}, {}, threads=1
    ).values()
    assert untouched.change == 0.0
    assert untouched.types["Q4_1"].kept == 1.0
