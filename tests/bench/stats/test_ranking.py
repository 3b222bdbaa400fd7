"""Which of several contenders differ: tests of all pairs, and letters that say the same."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuneserve.bench.stats.bootstrap import Bootstrap
from tuneserve.bench.stats.ranking import letter_display, rank

NAMES = ["a", "b", "c", "d", "e", "f"]


@given(st.sets(st.sampled_from(list(combinations(NAMES, 2)))))
def test_letters_are_shared_by_those_that_do_not_differ(apart: set[tuple[str, str]]) -> None:
    letters = letter_display(NAMES, sorted(apart))
    for first, second in combinations(NAMES, 2):
        shared = set(letters[first]) & set(letters[second])
        assert bool(shared) == ((first, second) not in apart)


def test_letters_of_a_known_case() -> None:
    # Piepho's own kind of case: the middle one differs from neither end.
    assert letter_display(["x", "y", "z"], [("x", "z")]) == {"x": "a", "y": "ab", "z": "b"}


def test_ranking() -> None:
    generator = np.random.default_rng(0)
    base = (generator.random(200) < 0.4).astype(float)
    better, alike = base.copy(), base.copy()
    better[:100] = 1.0
    alike[0] = 1 - alike[0]
    found = rank({"base": base, "alike": alike, "better": better}, Bootstrap(np.arange(200)))
    assert found.ranked[0].name == "better"
    assert found.ranked[0].letters == "a"
    assert {one.letters for one in found.ranked[1:]} == {"b"}
    assert [test.shown for test in found.tests] == [True, True, False]
    # Three p of one-sided splits: Holm takes the smallest times 3, the next times 2.
    smallest = min(test.adjusted_p for test in found.tests)
    won = max(test.won for test in found.tests)
    assert smallest == pytest.approx(3 * 2 * 0.5**won)
    assert found.sentence.startswith("Of 3 pairs, 2 differ: better is better than ")


def test_nothing_differs() -> None:
    same = np.tile([0.0, 1.0], 20)
    found = rank({"x": same, "y": same, "z": same}, Bootstrap(np.arange(40)))
    assert {one.letters for one in found.ranked} == {"a"}
    assert found.sentence == "Of 3 pairs, none differs: no difference is shown."
