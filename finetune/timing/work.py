"""What a training computes: tokens and steps, from the examples' lengths."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tuneserve.finetune.memory.budget import packs
from tuneserve.finetune.memory.prefixes import CPU_PADDING
from tuneserve.finetune.memory.schedule import Schedule, examples_in
from tuneserve.finetune.tokens.encoder import Encoded
from tuneserve.finetune.tokens.epoch import LengthGroupedSampler, TrainingSet
from tuneserve.settings import TrainSettings


@dataclass(frozen=True)
class Work:
    """The examples' own tokens, of an epoch and of the whole training, and what is computed for
    each of them: by the layers (`computed`: 1.25 with a quarter of padding) and by the output layer
    (`logits`). `length`: the mean example's, padded. `evaluated`: the tokens of all evaluations."""

    epoch_examples: int
    epoch_tokens: int
    steps: int
    tokens: int
    computed: float
    logits: float
    length: int
    evaluated: int


def training_work(
    training_set: TrainingSet,
    encoded: Mapping[str, Sequence[Encoded]],
    schedule: Schedule,
    settings: TrainSettings,
    *,
    device: str,
) -> Work:
    """The work of training on one device, in the batches that its first epoch has."""
    lengths = [len(item.input_ids) for item in training_set.encoded]
    size = settings.batch_size
    sampler = LengthGroupedSampler(
        lengths, training_set.sampler, settings.examples_per_step, settings.seed
    )
    places = list(sampler)
    order = [lengths[place] for place in places]
    tokens, computed = sum(order), sum(order)
    # On a CPU Unsloth's loss computes no logits that it does not count.
    trained = sum(training_set.encoded[place].trained for place in places)
    if not packs(settings, device):
        unit = CPU_PADDING if device == "cpu" else 1
        batches = (order[first : first + size] for first in range(0, len(order), size))
        computed = sum(len(batch) * (-(-max(batch) // unit) * unit) for batch in batches)
    visited = examples_in(schedule.steps, settings, len(order))
    evaluations = 0
    if schedule.evaluate_every:
        evaluations = 1 + schedule.steps // schedule.evaluate_every  # one before the first step
    held_out = itertools.chain(encoded.get("eval", ()), encoded.get("general", ()))
    return Work(
        epoch_examples=len(order),
        epoch_tokens=tokens,
        steps=schedule.steps,
        tokens=round(tokens * visited / len(order)),
        computed=computed / tokens,
        logits=trained / tokens if device == "cpu" else computed / tokens,
        length=round(computed / len(order)),
        evaluated=evaluations * sum(len(item.input_ids) for item in held_out),
    )
