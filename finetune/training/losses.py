"""The losses of a training, measured per answer token.

The trainer of the libraries averages the mean losses of evaluation batches, which weighs a token
of a short answer more than one of a long answer. Here every trained token counts the same, so
exp(loss) is the perplexity of the answers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from tuneserve.finetune.tokens.encoder import IGNORED
from tuneserve.records import Record

EVAL_LOSS = "eval_loss"
GENERAL_LOSS = "general_loss"
# The checkpoint with the least of it is kept: the eval loss, or infinity where the loss on general
# examples has risen above its limit.
SELECTION_LOSS = "eval_choice"


def perplexity_of(loss: float) -> float:
    """exp(loss), finite for every finite loss."""
    return math.exp(min(loss, 700.0))


class HeldOutLoss(Record):
    """Mean loss per answer token (nats), its exponential, and the number of tokens."""

    loss: float
    perplexity: float
    tokens: int


def general_rise(history: Sequence[Mapping[str, float]]) -> float:
    """How far the loss on general examples is above what it was at the first evaluation."""
    losses = [entry[GENERAL_LOSS] for entry in history if GENERAL_LOSS in entry]
    return losses[-1] - losses[0] if losses else 0.0


def evaluations_without_gain(history: Sequence[Mapping[str, float]]) -> int:
    """How many evaluations, at the end of a training's log, did not lower the eval loss."""
    losses = [entry[EVAL_LOSS] for entry in history if EVAL_LOSS in entry]
    if not losses:
        return 0
    return len(losses) - 1 - losses.index(min(losses))


def losses_of(metrics: Mapping[str, float]) -> dict[str, float]:
    """The losses among an evaluation's metrics, by what was evaluated."""
    return {
        name.removesuffix("_loss"): value
        for name, value in metrics.items()
        if name.endswith("_loss")
    }


def held_out_loss(trainer: Any, dataset: Any) -> HeldOutLoss:
    """The loss over a dataset, every trained token weighed alike, in all processes together."""
    import torch

    model = trainer.model
    was_training = model.training
    model.eval()
    total = torch.zeros(2, dtype=torch.float64, device=trainer.args.device)
    for batch in trainer.get_eval_dataloader(dataset):
        inputs = trainer._prepare_inputs(batch)
        # The first token is predicted from nothing, so its label counts in no loss.
        count = (inputs["labels"][..., 1:] != IGNORED).sum()
        with torch.no_grad(), trainer.compute_loss_context_manager():
            loss = trainer.compute_loss(model, inputs)
        total += torch.stack([loss.double() * count, count.double()]).to(total.device)
    model.train(was_training)
    total = trainer.accelerator.reduce(total, reduction="sum")
    loss = (total[0] / total[1]).item()
    return HeldOutLoss(loss=loss, perplexity=perplexity_of(loss), tokens=int(total[1].item()))
