"""Weights of rows that are read together are those of each."""

from __future__ import annotations

import numpy as np
import pytest

from tuneserve.serve.engine.drawing import HEAD_SHARE, draw, weights_at
from tuneserve.serve.engine.types import SamplingParams
from tuneserve.serve.engine.weights import Weights, empty_blocks

VOCABULARY = 3000


def rows(count: int, spread: float) -> np.ndarray:
    random = np.random.default_rng(7)
    return random.normal(0.0, spread, (count, VOCABULARY)).astype(np.float32)


def made(logits: np.ndarray, temperature: float = 1.0) -> list[Weights | None]:
    blocks = empty_blocks(len(logits), VOCABULARY)
    blocks.reshape(len(logits), -1)[:, VOCABULARY:] = 0.0
    return Weights.of_rows(logits, temperature, blocks, HEAD_SHARE)


@pytest.mark.parametrize("temperature", [1.0, 0.7, 1.6])
def test_weights_of_rows_are_those_of_each(temperature: float) -> None:
    logits = rows(5, 3.0)
    together = made(logits, temperature)
    for row, weights in zip(logits, together, strict=True):
        assert weights is not None
        alone = Weights(row, temperature)
        assert np.array_equal(weights.flat, alone.flat)
        assert (weights.total, weights.shift) == (alone.total, alone.shift)
        assert weights.head is not None
        assert np.array_equal(weights.head, np.flatnonzero(alone.flat >= HEAD_SHARE * alone.total))


def test_a_row_that_needs_a_shift_is_left_out() -> None:
    logits = rows(3, 1.0)
    logits[1] += 500.0
    first, second, third = made(logits)
    assert first is not None
    assert second is None
    assert third is not None


@pytest.mark.parametrize(
    "sampling",
    [
        SamplingParams(temperature=1.0),
        SamplingParams(temperature=0.7),
        SamplingParams(temperature=0.7, top_p=0.95),
        SamplingParams(temperature=1.3, top_p=0.5),
        SamplingParams(temperature=0.7, top_p=0.95, min_p=0.05),
    ],
    ids=["1", "0.7", "0.7 and top_p", "hot and top_p", "min_p too"],
)
@pytest.mark.parametrize("spread", [0.1, 4.0], ids=["flat", "peaked"])
def test_draws_are_the_same_with_weights_that_are_there(
    sampling: SamplingParams, spread: float
) -> None:
    temperature = weights_at(sampling)
    assert temperature is not None
    for place, row in enumerate(rows(8, spread)):
        alone = draw(row, sampling, np.random.default_rng(place))
        (weights,) = made(row[np.newaxis], temperature)
        assert draw(row, sampling, np.random.default_rng(place), weights) == alone


@pytest.mark.parametrize(
    "sampling",
    [
        SamplingParams(temperature=0.0),
        SamplingParams(temperature=0.7, top_k=40),
        SamplingParams(temperature=0.7, min_p=0.05),
    ],
    ids=["greedy", "top_k", "min_p"],
)
def test_other_draws_begin_without_weights(sampling: SamplingParams) -> None:
    assert weights_at(sampling) is None
