"""How many steps a training run has, and at which of them it is evaluated."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from tuneserve.errors import UsageError
from tuneserve.settings import TrainSettings


@dataclass(frozen=True)
class Schedule:
    """Optimizer steps in all, in the warm-up (fewer than in all), and between evaluations (0:
    none)."""

    steps: int
    warmup: int
    evaluate_every: int


def shared_out(settings: TrainSettings, processes: int) -> TrainSettings:
    """The settings of one of so many processes, which share out the examples of each step: as many
    computed at a time as the settings say, or the next smaller number that divides the share.

    Raises UsageError where they can't be shared out evenly.
    """
    if processes == 1:
        return settings
    share, left = divmod(settings.examples_per_step, processes)
    if left:
        raise UsageError(
            f"{settings.examples_per_step} examples a step (batch_size x gradient_accumulation) "
            f"can't be shared out to {processes} processes evenly",
            where="train.batch_size",
        )
    size = next(size for size in range(settings.batch_size, 0, -1) if share % size == 0)
    return settings.model_copy(update={"batch_size": size, "gradient_accumulation": share // size})


def plan_steps(settings: TrainSettings, examples: int, *, devices: int = 1) -> Schedule:
    """The steps of `examples` training examples under these settings, which are those of each of
    `devices` processes (`shared_out`).

    The last batch of an epoch may be short; it is a step like the others.
    """
    batches = math.ceil(examples / (settings.batch_size * devices))
    per_epoch = math.ceil(batches / settings.gradient_accumulation)
    steps = settings.max_steps or max(1, math.ceil(per_epoch * settings.epochs))
    every = math.ceil(steps / settings.evaluations) if settings.evaluations else 0
    # A step is left for the peak, so that the only step of a tiny training is at the peak.
    warmup = min(math.ceil(settings.warmup_fraction * steps), steps - 1)
    return Schedule(steps, warmup, every)


def examples_in(steps: int, settings: TrainSettings, examples: int, *, devices: int = 1) -> int:
    """How many examples so many steps of a training on `examples` have: the last step of an epoch
    may be short."""
    a_step = settings.examples_per_step * devices
    epochs, left = divmod(steps, math.ceil(examples / a_step))
    return epochs * examples + min(left * a_step, examples)


def warmed_up(step: int, usual: Callable[[int], float], *, warmup: int) -> float:
    """The factor of the peak learning rate at a step (counted from 0).

    In the warm-up it rises in equal parts from 1 / (warmup + 1), for the schedules of transformers
    begin at 0 and waste the first step; from then on it is the `usual` one of the schedule.
    """
    return (step + 1) / (warmup + 1) if step < warmup else usual(step)
