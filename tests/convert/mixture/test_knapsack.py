"""The knapsack's choices fit, and none that fits is better."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuneserve.convert.mixture import knapsack
from tuneserve.convert.mixture.knapsack import Option, choose_options
from tuneserve.errors import UsageError

OPTIONS = st.lists(
    st.builds(Option, st.just("T"), st.integers(1, 60), st.floats(0, 9)), min_size=1, max_size=4
)


@given(items=st.lists(OPTIONS, min_size=1, max_size=4), limit=st.integers(1, 200))
def test_no_other_choice_that_fits_is_better(items: list[list[Option]], limit: int) -> None:
    fitting = [c for c in product(*items) if sum(option.bytes for option in c) <= limit]
    if not fitting:
        with pytest.raises(UsageError, match="smallest types"):
            choose_options(items, limit)
        return
    found = choose_options(items, limit)
    assert all(option in options for option, options in zip(found, items, strict=True))
    assert sum(option.bytes for option in found) <= limit
    least = min(sum(option.harm for option in choice) for choice in fitting)
    assert sum(option.harm for option in found) == pytest.approx(least)


def test_coarse_units_lose_next_to_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    items = [
        [Option("small", 1_000_003 * n, 1 / n), Option("large", 1_700_017 * n, 0.1 / n)]
        for n in range(1, 40)
    ]
    limit = 1_200_000_000
    coarse = choose_options(items, limit)
    monkeypatch.setattr(knapsack, "UNITS", 40 * knapsack.UNITS)
    fine = choose_options(items, limit)
    harms = [sum(option.harm for option in found) for found in (coarse, fine)]
    assert harms[0] <= 1.005 * harms[1]
    assert sum(option.bytes for option in coarse) <= limit
