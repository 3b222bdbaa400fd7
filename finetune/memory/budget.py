"""The memory at hand, and what training does with it: said before it starts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tuneserve.errors import UsageError
from tuneserve.finetune.memory.model import GIB, Shape, is_quantized
from tuneserve.finetune.memory.planning import RESERVED_GIB
from tuneserve.finetune.memory.schedule import Schedule
from tuneserve.finetune.memory.search import Way, choose
from tuneserve.finetune.runtime.libraries import Runtime
from tuneserve.finetune.runtime.processes import local_rank
from tuneserve.finetune.tokens.encoder import Encoded
from tuneserve.finetune.training.cpu import compiles
from tuneserve.memory import free_main_memory
from tuneserve.settings import Recipe, TrainSettings

# Of the main memory that is free, the share that training may take.
_MAIN_MEMORY_SHARE = 0.8
# When memory ran out after all, the next try may take this share of what was planned.
_STEP_DOWN = 0.75
# oneDNN keeps buffers for every shape it meets, so on a CPU lengths are multiples of this.
CPU_PADDING = 16


@dataclass(frozen=True)
class Budget:
    """The settings with everything decided that was open, and the memory that follows: predicted
    peak (None: this model can't be planned) and what is there, in bytes."""

    settings: TrainSettings
    four_bit: bool
    predicted: int | None
    available: int
    chosen: str
    choose_within: Callable[[float], Way] | None = None

    def describe(self) -> str:
        """What was chosen and why, in a sentence."""
        if self.predicted is None:
            return f"memory can't be planned for this architecture; {self.chosen}"
        room = f"{self.predicted / GIB:.1f} GiB planned of {self.available / GIB:.1f} that are free"
        if self.predicted > self.available:
            return (
                f"WARNING: memory may not suffice: {room}, with {self.chosen}; shorter examples "
                "(max_seq_length) or fewer at a time (batch_size) take less"
            )
        return f"{self.chosen}: {room}"

    def way(self) -> dict[str, Any]:
        """What was decided, by setting."""
        decided = self.settings.model_dump(
            include={
                "gradient_checkpointing", "kept_layers", "offload_embeddings", "batch_size",
                "gradient_accumulation",
            }
        )  # fmt: skip
        return {"load_in_4bit": self.four_bit, **decided}

    def smaller(self, original: TrainSettings) -> Budget | None:
        """The budget for what takes markedly less memory; None if nothing that is open does."""
        if self.choose_within is None or self.predicted is None:
            return None
        way = self.choose_within(self.predicted * _STEP_DOWN)
        if way.memory.total >= self.predicted:
            return None
        return replace(
            self, settings=way.applied(original), four_bit=way.four_bit,
            predicted=way.memory.total, chosen=way.describe(),
        )  # fmt: skip


def plan_budget(
    recipe: Recipe,
    runtime: Runtime,
    checkpoint: Path,
    train: Sequence[Encoded],
    schedule: Schedule,
) -> Budget:
    """Plan training on the examples as they are; the longest ones decide the peak."""
    settings = recipe.train
    available = available_bytes(runtime, settings.vram)
    recipe = with_precision_of_base(recipe, checkpoint)
    try:
        shape = Shape.read(checkpoint)
    except UsageError:
        return _unplanned(recipe, available)
    all_kept = settings.model_copy(update={"gradient_checkpointing": "false"})
    compiled = compiles(all_kept, runtime, train, schedule)
    unit = CPU_PADDING if runtime.device == "cpu" else 1
    lengths = [-(-len(item.input_ids) // unit) * unit for item in train]

    def choose_within(room: float) -> Way:
        return choose(
            shape, recipe, lengths, available=room, device=runtime.device,
            padded=not packs(settings, runtime.device), compiled=compiled,
            value_bytes=4 if runtime.precision == "fp32" else 2,
        )  # fmt: skip

    way = choose_within(available)
    return Budget(
        way.applied(settings), way.four_bit, way.memory.total, available, way.describe(),
        choose_within,
    )  # fmt: skip


def as_before(recipe: Recipe, way: dict[str, Any]) -> Recipe:
    """The recipe with what an earlier part of the same training was decided to do."""
    four_bit, decided = way["load_in_4bit"], {**way, "speed": "as_given"}
    del decided["load_in_4bit"]
    return recipe.model_copy(
        update={
            "model": recipe.model.model_copy(update={"load_in_4bit": four_bit}),
            "train": recipe.train.model_copy(update=decided),
        }
    )


def _unplanned(recipe: Recipe, available: int) -> Budget:
    settings = recipe.train
    if settings.gradient_checkpointing == "auto":
        settings = settings.model_copy(update={"gradient_checkpointing": "unsloth"})
    four_bit = bool(recipe.model.load_in_4bit)
    return Budget(settings, four_bit, None, available, "activations recomputed")


def with_precision_of_base(recipe: Recipe, checkpoint: Path) -> Recipe:
    """The recipe, with 4-bit settled if the checkpoint itself is in 4 bits."""
    if recipe.model.load_in_4bit is not None or not is_quantized(checkpoint):
        return recipe
    model = recipe.model.model_copy(update={"load_in_4bit": True})
    return recipe.model_copy(update={"model": model})


def packs(settings: TrainSettings, device: str) -> bool:
    """Are a batch's examples laid end to end?"""
    return settings.packing == "true" or (settings.packing == "auto" and device == "cuda")


def available_bytes(runtime: Runtime, vram: float) -> int:
    """Memory that training may take: of the GPU, or of the machine where it trains on the CPU."""
    if runtime.device == "cuda":
        free: int = runtime.torch.cuda.mem_get_info(local_rank())[0]
        if vram:
            free = min(free, int(vram * GIB))
        return free - int(RESERVED_GIB * GIB)
    return int(free_main_memory() * _MAIN_MEMORY_SHARE)
