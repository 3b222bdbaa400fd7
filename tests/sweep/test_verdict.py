"""Is the best of several trials better than the first, or was it the luckiest?"""

from __future__ import annotations

import numpy as np
import pytest

from tuneserve.finetune.training.eval_losses import EvalLosses, ExampleLoss
from tuneserve.sweep.verdict import comparable, compare, sentence


def losses(values: list[float], *, sources: int = 0, tokens: int = 4) -> EvalLosses:
    examples = [
        ExampleLoss(
            source=str(place % sources if sources else place), sha256=str(place), tokens=tokens,
            loss=value,
        )
        for place, value in enumerate(values)
    ]  # fmt: skip
    return EvalLosses(step=1, examples=examples)


def drawn(count: int, gains: list[float], spread: float, seed: int) -> dict[int, EvalLosses]:
    """The first trial's losses, and of each further one those lower by its gain on average."""
    generator = np.random.default_rng(seed)
    first = generator.gamma(2.0, 0.5, count)
    found = {0: losses(first.tolist())}
    for number, gain in enumerate(gains, start=1):
        changed = first - gain + generator.normal(0, spread, count)
        found[number] = losses(changed.tolist())
    return found


def best_of(found: dict[int, EvalLosses]) -> int:
    means = {number: sum(example.loss for example in one.examples) for number, one in found.items()}
    return min((number for number in means if number), key=means.__getitem__)


def test_a_clear_gain_is_shown_with_its_ratio() -> None:
    found = drawn(60, [0.2, 0.0, -0.1], 0.1, seed=0)
    compared = compare(0, 1, found, candidates=3)
    assert compared.better
    assert compared.ratio == pytest.approx(np.exp(-0.2), rel=0.05)
    assert compared.low is not None
    assert compared.high is not None
    assert compared.low < np.exp(-0.2) < compared.high < 1
    assert "better beyond chance" in sentence(compared)
    assert "for all 3 candidates together" in sentence(compared)


def test_the_best_of_many_equals_is_rarely_called_better() -> None:
    """Of 8 candidates that differ from the first by chance alone, the best one looks better in
    almost every sweep; it is to be called so in 5 of 100 at most."""
    sweeps = 60
    called = looked = alone = 0
    for seed in range(sweeps):
        found = drawn(40, [0.0] * 8, 0.3, seed=seed)
        best = best_of(found)
        compared = compare(0, best, found, candidates=8)
        called += compared.better
        looked += compared.ratio < 1
        alone += compare(0, best, {0: found[0], best: found[best]}, candidates=1).better
    assert looked > 0.9 * sweeps
    assert called <= 0.08 * sweeps  # 5 % and what 60 draws may differ by
    assert alone > 0.12 * sweeps  # what it guards against


def test_pruned_trials_were_candidates_too() -> None:
    found = drawn(12, [0.1], 0.15, seed=3)
    alone, among = (compare(0, 1, found, candidates=count) for count in (1, 20))
    assert among.p == pytest.approx(min(1.0, 20 * alone.p))
    assert alone.high is not None
    assert among.high is not None
    assert among.high > alone.high


def test_few_examples_show_nothing_and_examples_of_a_source_are_not_independent() -> None:
    few = {0: losses([1.0] * 5), 1: losses([0.5, 0.51, 0.52, 0.5, 0.5])}
    assert not compare(0, 1, few, candidates=1).better
    many = {
        0: losses([1.0] * 40, sources=4),
        1: losses([0.5 + place % 3 / 100 for place in range(40)], sources=4),
    }
    compared = compare(0, 1, many, candidates=1)
    assert (compared.examples, compared.sources) == (40, 4)
    assert not compared.better


def test_other_examples_can_not_be_compared() -> None:
    first = losses([1.0, 2.0])
    assert comparable(first, losses([3.0, 4.0]))
    assert not comparable(first, losses([1.0, 2.0], tokens=5))
    assert not comparable(first, losses([1.0]))
