"""Weights of rows that are read together are those of each."""

from __future__ import annotations

import numpy as np
import pytest

from tuneserve.serve.engine.drawing import HEAD_SHARE, draw
from tuneserve.serve.engine.row_reading import NOTHING, first_read, read_rows
from tuneserve.serve.engine.types import SamplingParams
from tuneserve.serve.engine.weights import Blocks, LogitsError, Weights, blocks_of, empty_blocks

VOCABULARY = 3000


def rows(count: int, spread: float) -> np.ndarray:
    random = np.random.default_rng(7)
    return random.normal(0.0, spread, (count, VOCABULARY)).astype(np.float32)


def made(logits: np.ndarray, temperature: float = 1.0) -> list[Weights | None]:
    return Weights.of_rows(logits, temperature, empty_room(len(logits)), HEAD_SHARE)


def empty_room(count: int) -> Blocks:
    return blocks_of(empty_blocks(count, VOCABULARY).reshape(-1), count, VOCABULARY)


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
        SamplingParams(temperature=0.7, top_k=40),
        SamplingParams(temperature=0.7, top_k=40, top_p=0.95, min_p=0.05),
        SamplingParams(temperature=0.7, top_k=10_000, top_p=0.95),
        SamplingParams(temperature=0.7, min_p=0.05),
    ],
    ids=["1", "0.7", "top_p", "hot", "min_p too", "top_k", "all", "top_k of all", "min_p"],
)
@pytest.mark.parametrize("spread", [0.1, 4.0], ids=["flat", "peaked"])
def test_draws_are_the_same_of_rows_that_were_read(sampling: SamplingParams, spread: float) -> None:
    logits = rows(8, spread)
    kind = first_read(sampling)
    assert kind is not None
    reads = read_rows(logits, kind, empty_room(8), HEAD_SHARE)
    for place, (row, read) in enumerate(zip(logits, reads, strict=True)):
        assert read is not NOTHING
        alone = draw(row, sampling, np.random.default_rng(place))
        assert draw(row, sampling, np.random.default_rng(place), read) == alone


def test_rows_that_are_no_numbers_are_left_to_the_draw() -> None:
    logits = rows(3, 1.0)
    logits[1] = np.nan
    reads = read_rows(logits, ("likely", 0.1), empty_room(3), 0.0)
    assert [read is NOTHING for read in reads] == [False, True, False]
    with pytest.raises(LogitsError):
        draw(logits[1], SamplingParams(temperature=1.0, min_p=0.1), np.random.default_rng(0))


def test_the_most_probable_token_needs_nothing_read() -> None:
    assert first_read(SamplingParams(temperature=0.0)) is None
