"""The losses of a training, measured per answer token.

The trainer of the libraries averages the mean losses of evaluation batches, which weighs a token
of a short answer more than one of a long answer. Here every trained token counts the same, so
exp(loss) is the perplexity of the answers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from tuneserve.errors import TuneserveError
from tuneserve.finetune.runtime.shards import let_go
from tuneserve.finetune.tokens.encoder import IGNORED, Encoded
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


def places_of(batches: Iterable[Any], examples: Sequence[Encoded]) -> list[str]:
    """Where the examples stand in their files that are in batches of token ids ([rows, length]
    tensors), however they were padded or laid end to end."""
    texts = [_joined(batch.flatten().tolist()) for batch in batches]
    found = (
        example.where
        for example in examples
        if example.where and any(_joined(example.input_ids) in text for text in texts)
    )
    return list(dict.fromkeys(found))


def _joined(ids: Sequence[int]) -> str:
    return f",{','.join(map(str, ids))},"


def no_number(what: str, value: float, step: int, places: Sequence[str]) -> TuneserveError:
    """The error for a figure of a step that is no finite number."""
    about_base = (
        'The base may not work as it is loaded here: check it, or train with precision = "fp32". '
    )
    return TuneserveError(
        f"{what} is no finite number ({value})" + ("; its examples:" if places else ""),
        where=f"step {step}",
        problems=places,
        hint=(about_base if step <= 1 else "")
        + "Nothing is saved of this step. Look at these examples; a lower learning_rate, "
        'max_grad_norm = 1 or precision = "fp32" may help. Then train with --force.',
    )


def held_out_loss(
    trainer: Any, dataset: Any, name: str, *, on_batch: Callable[[int, int], None] | None = None
) -> HeldOutLoss:
    """The loss over a dataset, every trained token weighed alike, in all processes together.

    `name` says what it is the loss of; `on_batch` is told after each batch of this process how many
    are done, and of how many. Raises TuneserveError if it is no finite number.
    """
    loss, tokens, sums = measured_loss(trainer, dataset, on_batch=on_batch)
    if not math.isfinite(loss):
        batches, _ = own_batches(trainer, dataset)
        bad = [b["input_ids"] for b, s in zip(batches, sums, strict=True) if not math.isfinite(s)]
        places = places_of(bad, trainer.examples)
        raise no_number(f"the {name} loss", loss, trainer.state.global_step, places)
    return HeldOutLoss(loss=loss, perplexity=perplexity_of(loss), tokens=tokens)


def measured_loss(
    trainer: Any, dataset: Any, *, on_batch: Callable[[int, int], None] | None = None
) -> tuple[float, int, list[float]]:
    """The mean loss over a dataset, which may be no finite number, the trained tokens, and the sum
    of the losses of each batch of this process. Each example counts once. All processes have to
    take part."""
    import torch

    model = trainer.model
    was_training = model.training
    model.eval()
    total = torch.zeros(2, dtype=torch.float64, device=trainer.args.device)
    sums = []
    batches, counted = own_batches(trainer, dataset)
    if on_batch is not None:
        on_batch(0, len(batches))
    for number, batch in enumerate(batches, start=1):
        inputs = trainer._prepare_inputs(batch)
        # The first token is predicted from nothing, so its label counts in no loss.
        count = (inputs["labels"][..., 1:] != IGNORED).sum()
        with torch.no_grad(), trainer.compute_loss_context_manager():
            loss = trainer.compute_loss(model, inputs)
        sums.append(loss.double() * count)
        if number <= counted:
            total += torch.stack([sums[-1], count.double()]).to(total.device)
        if on_batch is not None:
            on_batch(number, len(batches))
    model.train(was_training)
    let_go(model)
    total = trainer.accelerator.reduce(total, reduction="sum")
    return (total[0] / total[1]).item(), int(total[1].item()), [part.item() for part in sums]


def own_batches(trainer: Any, dataset: Any) -> tuple[Any, int]:
    """The batches of this process, and how many of them count. All processes have to compute
    equally many: where they do not share out evenly, some compute the first one again."""
    processes = trainer.accelerator.num_processes
    if processes == 1:
        loader = trainer.get_eval_dataloader(dataset)
        return loader, len(loader)
    examples, size = len(dataset), trainer.args.eval_batch_size
    batches = [range(at, min(at + size, examples)) for at in range(0, examples, size)]
    own = batches[trainer.accelerator.process_index :: processes]
    counted = len(own)
    if counted * processes < len(batches):
        own.append(batches[0])
    loader = trainer.get_eval_dataloader(dataset.select([row for batch in own for row in batch]))
    # They are shared out already. Accelerate would do it with examples twice, which count as such.
    shard = loader.batch_sampler
    shard.num_processes, shard.process_index, shard.even_batches = 1, 0, False
    return loader, counted
