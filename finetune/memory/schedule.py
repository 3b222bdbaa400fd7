"""How many steps a training run has, and at which of them it is evaluated."""

from __future__ import annotations

import math
from dataclasses import dataclass

from tuneserve.settings import TrainSettings


@dataclass(frozen=True)
class Schedule:
    """Optimizer steps in all, in the warm-up, and between evaluations (0: none)."""

    steps: int
    warmup: int
    evaluate_every: int


def plan_steps(settings: TrainSettings, examples: int, *, devices: int = 1) -> Schedule:
    """The steps of `examples` training examples under these settings.

    The last batch of an epoch may be short; it is a step like the others.
    """
    batches = math.ceil(examples / (settings.batch_size * devices))
    per_epoch = math.ceil(batches / settings.gradient_accumulation)
    steps = settings.max_steps or max(1, math.ceil(per_epoch * settings.epochs))
    every = math.ceil(steps / settings.evaluations) if settings.evaluations else 0
    return Schedule(steps, math.ceil(settings.warmup_fraction * steps), every)
