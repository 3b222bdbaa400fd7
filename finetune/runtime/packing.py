"""Checks that examples packed into one row do not attend to each other."""

from __future__ import annotations

from typing import Any

from tuneserve.console import percent
from tuneserve.errors import UsageError
from tuneserve.finetune.runtime.libraries import Runtime

# Logits of an example alone and of the same example behind another one, as a share of the largest:
# rounding (bf16) changes them by a hundredth, attention to the other example by tenths.
_TOLERANCE = 0.05
_LENGTHS = (7, 12)
_HINT = 'Set train.packing to "auto" or "false".'


def check_apart(runtime: Runtime, model: Any) -> None:
    """Raise UsageError if this model mixes examples that are laid end to end.

    Computes two short texts alone and in one row. In the row, position ids start at 0 again where
    the second text begins.
    """
    torch = runtime.torch
    # Ids that any vocabulary has.
    highest = min(model.config.vocab_size, 1000)
    generator = torch.Generator().manual_seed(0)
    both = torch.randint(3, highest, (sum(_LENGTHS),), generator=generator)
    first, second = both.split(_LENGTHS)
    positions = torch.cat([torch.arange(len(first)), torch.arange(len(second))])[None]
    was_training = model.training
    model.eval()
    with (
        torch.no_grad(),
        torch.autocast("cpu", enabled=runtime.precision == "bf16", dtype=runtime.dtype),
    ):
        alone = model(input_ids=second[None]).logits[0].float()
        row = model(input_ids=both[None], position_ids=positions)
    model.train(was_training)
    behind = row.logits[0, len(first) :].float()
    difference = float((behind - alone).abs().max() / alone.abs().max())
    if not difference <= _TOLERANCE:
        raise UsageError(
            "this model does not keep examples in one row apart "
            f"(its logits change by {percent(difference, 0)})",
            where="train.packing",
            hint=_HINT,
        )


def check_honoured(trainer: Any) -> None:
    """Raise UsageError if Unsloth turned packing off, as it does for models that can't do it."""
    if not trainer.args.padding_free:
        raise UsageError(
            f"Unsloth does not lay examples of this model ({trainer.model.config.model_type}) end "
            "to end: its layers would see across them",
            where="train.packing",
            hint=_HINT,
        )
