"""The interval of a ratio holds what it says, also where the denominator is near zero."""

from __future__ import annotations

import numpy as np
import pytest

from tuneserve.convert.result import GainKept
from tuneserve.convert.verify.gain import check_gain
from tuneserve.convert.verify.ratio import cluster_of, ratio

TRIALS = 400


@pytest.mark.parametrize("examples", [8, 64])
@pytest.mark.parametrize("skewed", [False, True])
@pytest.mark.parametrize(("gain", "share"), [(1.0, 0.9), (0.3, 0.2), (0.05, 0.9)])
def test_covers(examples: int, skewed: bool, gain: float, share: float) -> None:
    generator = np.random.default_rng(examples)
    missed = told = 0
    for _ in range(TRIALS):
        spread = (
            generator.exponential(1.0, examples) - 1 if skewed else generator.normal(size=examples)
        )
        gained = gain + 0.8 * spread
        kept = share * gained + generator.normal(0, 0.15, examples)
        found = ratio(kept, gained, range(examples))
        if found is not None:
            told += 1
            missed += not found.low <= share <= found.high
    # 95 % of the intervals of these trials, less three standard errors.
    assert missed / TRIALS <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / TRIALS)
    assert (told > 0.8 * TRIALS) == (gain == 1.0 or (gain == 0.3 and examples == 64))


def test_no_gain_and_a_loss_are_not_told() -> None:
    generator = np.random.default_rng(0)
    noise = generator.normal(size=40)
    assert ratio(noise, generator.normal(size=40), range(40)) is None
    assert ratio(noise, -5 + noise, range(40)) is None
    assert ratio(np.ones(4), np.ones(4), range(4)) is None


def test_examples_of_a_source_count_once() -> None:
    generator = np.random.default_rng(0)
    gained = np.repeat(1 + 0.5 * generator.normal(size=10), 8)
    kept = 0.8 * gained + np.repeat(0.1 * generator.normal(size=10), 8)
    alone = ratio(kept, gained, range(80))
    together = ratio(kept, gained, [cluster_of(f"s{n // 8}", n) for n in range(80)])
    assert alone is not None
    assert together is not None
    assert together.value == pytest.approx(alone.value)
    assert together.high - together.low > 2 * (alone.high - alone.low)


@pytest.mark.parametrize(
    ("share", "high", "update", "kept"),
    [
        (0.95, 1.2, 0.1, True),  # the answers tell that it is kept
        (0.22, 0.24, 0.99, False),  # the answers tell that it is lost
        (0.67, 1.07, 1.01, True),  # they can't tell, and the updates are there
        (0.67, 1.07, 0.04, False),
        (1.34, 3.1, 0.04, False),  # an interval that says nothing
        (1.34, 3.1, 0.97, True),
        (0.67, 1.07, None, True),  # an adapter beside its base: nothing of it is rounded
        (None, None, 0.04, False),
        (None, None, 0.97, True),
    ],
)
def test_what_decides(
    share: float | None, high: float | None, update: float | None, kept: bool
) -> None:
    gain = GainKept(
        share=share, low=share and 2 * share - (high or 0), high=high,
        base=-2.0, merged=-1.0, file=-1.5,
        examples=5, tokens=50, answers=5, same_answers=3, right_base=0, right_merged=4,
        right_file=3, update_kept=update,
    )  # fmt: skip
    assert gain.keeps(0.9) is kept


@pytest.mark.parametrize(
    ("update", "beside", "high", "kept"),
    [
        (0.98, 1.02, 1.1, True),  # rounding takes as much from the base
        (None, 0.92, 0.95, True),
        (0.98, 0.85, 1.05, True),  # or it can't be told
        (0.98, 0.46, 0.6, False),  # it takes more from the tuned model
        (0.11, 1.02, 1.1, False),  # the update itself is rounded away
    ],
)
def test_what_rounding_takes_from_the_base_too_is_not_the_tune(
    update: float | None, beside: float, high: float, kept: bool
) -> None:
    gain = GainKept(
        share=0.45, low=0.4, high=0.5, base=-2.0, merged=-1.0, file=-1.55,
        examples=5, tokens=50, answers=5, same_answers=3, right_base=0, right_merged=4,
        right_file=3, update_kept=update, base_file=-1.55 - beside, beside_base=beside,
        beside_high=high,
    )  # fmt: skip
    assert gain.keeps(0.9) is kept
    check = check_gain(gain, [], 0.9)
    assert check.passed is kept
    assert ("takes from the base too" in check.detail) is kept
