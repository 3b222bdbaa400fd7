"""How many steps there are, and the learning rate while it warms up."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuneserve.finetune.memory.schedule import examples_in, plan_steps, warmed_up
from tuneserve.settings import TrainSettings


def settings(**given: Any) -> TrainSettings:
    return TrainSettings.model_validate(given)


@pytest.mark.parametrize(
    ("examples", "steps", "warmup"),
    [(1, 1, 0), (8, 1, 0), (9, 2, 1), (160, 20, 1), (1600, 200, 10)],
)
def test_a_share_of_the_steps_warms_up(examples: int, steps: int, warmup: int) -> None:
    found = plan_steps(settings(), examples)
    assert (found.steps, found.warmup) == (steps, warmup)


@pytest.mark.parametrize(
    ("examples", "steps", "devices", "visited"),
    [(3, 3, 1, 9), (39, 6, 1, 47), (16, 4, 1, 32), (20, 3, 1, 20), (20, 2, 2, 20), (9, 1, 1, 8)],
)
def test_the_last_step_of_an_epoch_may_be_short(
    examples: int, steps: int, devices: int, visited: int
) -> None:
    assert settings().examples_per_step == 8
    assert examples_in(steps, settings(), examples, devices=devices) == visited


def test_the_rate_rises_in_equal_parts() -> None:
    rates = [warmed_up(step, lambda _: 1.0, warmup=4) for step in range(6)]
    assert rates == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])


@given(st.integers(1, 5000), st.floats(0, 1), st.integers(0, 12), st.integers(0, 50))
def test_no_first_step_is_at_rate_zero_and_the_peak_is_reached(
    examples: int, fraction: float, max_steps: int, evaluations: int
) -> None:
    found = plan_steps(
        settings(warmup_fraction=fraction, max_steps=max_steps, evaluations=evaluations), examples
    )
    rates = [warmed_up(step, lambda _: 1.0, warmup=found.warmup) for step in range(found.steps)]
    assert rates[0] > 0
    assert rates == sorted(rates)
    assert rates[-1] == 1.0
    assert 0 <= found.evaluate_every <= found.steps
