"""A base that is divided among the GPUs: each process holds its part of every layer, and gets the
rest of a layer from the others while it computes with it (FSDP2, as Unsloth brings it).

Unsloth divides the model when the trainer is made, and lets the trainer write and read checkpoints
of the whole; what is done with the adapter beside the trainer's own steps is here. All processes
have to take part in each of it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from tuneserve.errors import UsageError
from tuneserve.finetune.runtime.processes import is_first_process, process_count
from tuneserve.settings import ALL_GPUS, Recipe, TrainSettings

GATHERED_LAYERS = 2
"""Layers that a process has whole at a time: the one it computes with, and the next."""


def parts(settings: TrainSettings) -> int:
    """Into how many parts training divides the base: as many as there are processes, or as the
    settings will start on this machine."""
    if not settings.shard:
        return 1
    if (count := process_count()) > 1:
        return count
    if settings.gpus != ALL_GPUS:
        return settings.gpus
    import torch

    return max(1, torch.cuda.device_count())


def check_divisible(recipe: Recipe) -> None:
    """Raise UsageError if the base is to be divided, and can't be with these settings."""
    if not recipe.train.shard:
        return
    if parts(recipe.train) == 1:
        raise UsageError(
            "one process has nobody to divide the base with",
            where="train.shard",
            hint="Training on all GPUs is asked for, and torch sees no two of them here: see "
            "tuneserve doctor."
            if recipe.train.gpus == ALL_GPUS
            else "Add --gpus all, or a number.",
        )
    if recipe.train.quantization_aware:
        raise UsageError(
            "weights that are rounded while training are whole in each process",
            where="train.shard",
            hint="Leave out shard, or quantization_aware.",
        )


def prepare_dividing() -> None:
    """Have Unsloth divide the model that a trainer gets. Call it before Unsloth is imported."""
    os.environ["UNSLOTH_FSDP2"] = "1"
    # Else Unsloth keeps the base whole in each process wherever it fits.
    os.environ["UNSLOTH_FSDP2_LAYOUT"] = "sharded"


def load_divided(settings: TrainSettings, *, four_bit: bool) -> None:
    """Have each process read its own part alone of the base it loads next, where Unsloth can: of
    16-bit weights, if nothing is computed of a whole one before it is divided."""
    whole = four_bit or settings.use_dora or settings.packing == "true"
    os.environ["UNSLOTH_FSDP2_SHARDED_LOAD"] = "0" if whole else "1"


def is_divided(model: Any) -> bool:
    """Does each process hold a part of this model?"""
    return process_count() > 1 and any(
        hasattr(value, "full_tensor") for value in model.parameters()
    )


def let_go(model: Any) -> None:
    """Have the process hold its own part alone again, after a forward pass with no backward pass
    behind it, which leaves the last layer gathered: an optimizer that is made of weights that are
    gathered never changes those that are trained."""
    if is_divided(model):
        for module in model.modules():
            if hasattr(module, "reshard"):
                module.reshard()


def load_adapter(trainer: Any, checkpoint: Path) -> None:
    """Put the adapter of a checkpoint into the trainer's model."""
    if is_divided(trainer.model):
        trainer._load_from_checkpoint(str(checkpoint))
        return
    from peft import set_peft_model_state_dict
    from safetensors.torch import load_file

    set_peft_model_state_dict(trainer.model, load_file(checkpoint / "adapter_model.safetensors"))


def trained_weights(model: Any) -> dict[str, Any]:
    """The whole trained weights by name; of a divided model they are in the first process's main
    memory, and the others get none."""
    trained = {name: value for name, value in model.named_parameters() if value.requires_grad}
    if not is_divided(model):
        return trained
    found = {}
    for name, value in trained.items():
        whole = value.full_tensor() if hasattr(value, "full_tensor") else value
        if is_first_process():
            found[name] = whole.detach().cpu()
    return found
