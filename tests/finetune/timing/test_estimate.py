"""The time that follows from work and pace."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tuneserve.finetune.memory.model import TrainingMemory
from tuneserve.finetune.memory.search import Decisions, MemoryStrategy
from tuneserve.finetune.timing.calibration import Pace
from tuneserve.finetune.timing.estimate import by_pace, by_run, token_seconds
from tuneserve.finetune.timing.work import Work
from tuneserve.model_shape import Experts, ModelShape

SHAPE = ModelShape(576, 1536, 30, 576, 192, 49_152, heads=9, tied=True)
PACE = Pace(products=2e-5, layer=5e-5, head=1e-4, tokens=640, seconds=8)
WORK = Work(epoch_examples=100, epoch_tokens=8000, steps=25, tokens=16_000, computed=1.25,
            logits=1.25, length=80, evaluated=3000)  # fmt: skip


def strategy(
    *, compiled: bool = False, checkpointing: str = "false", cost: float = 1.0, backward: int = 30
) -> MemoryStrategy:
    decisions = Decisions(
        load_in_4bit=False, gradient_checkpointing=checkpointing, kept_layers=0,
        offload_embeddings=False, batch_size=8, gradient_accumulation=1,
    )  # fmt: skip
    return MemoryStrategy(decisions, 30, backward, compiled, TrainingMemory(1, 1, 1, 1), cost)


def test_what_is_faster_takes_less() -> None:
    eager = token_seconds(PACE, WORK, strategy(), SHAPE, device="cpu")
    compiled = token_seconds(PACE, WORK, strategy(compiled=True), SHAPE, device="cpu")
    recomputed = token_seconds(PACE, WORK, strategy(checkpointing="true"), SHAPE, device="cpu")
    bare = 1.25 * (SHAPE.layers * PACE.products + PACE.head)
    assert bare < compiled < eager < recomputed
    half = token_seconds(PACE, WORK, strategy(backward=15), SHAPE, device="cpu")
    assert 0.6 * eager < half < 0.8 * eager
    fewer = replace(WORK, logits=0.02)
    assert token_seconds(PACE, fewer, strategy(), SHAPE, device="cpu") < eager
    cheap, dear = (
        token_seconds(PACE, WORK, strategy(cost=c), SHAPE, device="cuda") for c in (1, 2)
    )
    assert bare < cheap < dear == pytest.approx(2 * cheap)


def test_the_span_is_that_of_all_tokens_with_padding_and_evaluations() -> None:
    each = token_seconds(PACE, WORK, strategy(), SHAPE, device="cpu")
    found = by_pace(PACE, WORK, strategy(), SHAPE, device="cpu")
    low, high = found.seconds
    steps, evaluations = 16_000 * each, 3000 * each
    assert low < steps + 0.3 * evaluations < steps + 0.5 * evaluations < high
    assert high / low < 2.25  # within a factor of 1.5 of its middle
    assert found.tokens_per_second == pytest.approx(1 / each, rel=1e-3)
    assert "calibration of this machine (8 s)" in found.known_from


def test_less_is_certain_of_a_mixture_and_more_of_what_was_measured() -> None:
    def span(seconds: tuple[float, float]) -> float:
        return seconds[1] / seconds[0]

    usual = by_pace(PACE, WORK, strategy(), SHAPE, device="cpu")
    mixture = replace(SHAPE, experts=Experts(8, 2, 512))
    mixed = by_pace(PACE, WORK, strategy(), mixture, device="cpu")
    run = by_run(800.0, WORK, "mine")
    assert span(run.seconds) < span(usual.seconds) < span(mixed.seconds)
    assert run.seconds[0] < 16_000 / 800 < run.seconds[1]
    assert run.tokens_per_second == 800
    assert "'mine'" in run.known_from


def test_compiling_is_in_the_longest_time() -> None:
    eager = by_pace(PACE, WORK, strategy(), SHAPE, device="cpu").seconds[1]
    assert by_pace(PACE, WORK, strategy(compiled=True), SHAPE, device="cpu").seconds[1] > eager
