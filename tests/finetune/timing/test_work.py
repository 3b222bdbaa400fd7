"""The tokens and steps of a training, from the lengths of its examples."""

from __future__ import annotations

import pytest

from tuneserve.finetune.memory.schedule import plan_steps
from tuneserve.finetune.timing.work import Work, training_work
from tuneserve.finetune.tokens.encoder import IGNORED, Encoded
from tuneserve.finetune.tokens.epoch import EpochSampler, Stream, TrainingSet
from tuneserve.settings import TrainSettings


def encoded(lengths: list[int]) -> list[Encoded]:
    """A tenth of each is trained."""
    return [Encoded([0] * n, [IGNORED] * (n - n // 10) + [0] * (n // 10), n, 0) for n in lengths]


def work(lengths: list[int], device: str = "cpu", **settings: object) -> Work:
    train = TrainSettings(batch_size=2, seed=0).model_copy(update=settings)
    items = tuple((place,) for place in range(len(lengths)))
    sampler = EpochSampler([Stream(items, len(lengths))], seed=0)
    examples = encoded(lengths)
    training_set = TrainingSet(examples, sampler, 0, 0, 0)
    schedule = plan_steps(train, len(sampler))
    parts = {"train": examples, "eval": encoded([10, 30])}
    return training_work(training_set, parts, schedule, train, device=device)


def test_padding_is_computed_too() -> None:
    found = work([10, 20, 30, 40])  # sorted by length: 10 + 20, 30 + 40, each pair padded
    assert found.epoch_tokens == 100
    assert found.computed == pytest.approx((2 * 32 + 2 * 48) / 100)
    assert found.logits == pytest.approx(0.1)  # of what the loss counts alone
    assert found.length == 40
    assert work([10, 20, 30, 40], "cuda").computed == 1  # laid end to end there
    unpacked = work([10, 20, 30, 40], "cuda", packing="false")
    assert unpacked.logits == unpacked.computed == pytest.approx((2 * 20 + 2 * 40) / 100)


def test_the_whole_training_is_so_many_epochs_or_steps() -> None:
    assert (work([10] * 8, epochs=2.5).steps, work([10] * 8, epochs=2.5).tokens) == (10, 200)
    assert (work([10] * 8, max_steps=3).steps, work([10] * 8, max_steps=3).tokens) == (3, 60)


def test_evaluations_are_counted_with_the_one_before_the_first_step() -> None:
    assert work([10] * 8, evaluations=2).evaluated == 3 * 40
    assert work([10] * 8, evaluations=0).evaluated == 0
