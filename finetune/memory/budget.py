"""The memory that is free, and how training is fitted into it; decided before training starts."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tuneserve.errors import UsageError
from tuneserve.finetune.memory.model import RESERVED_GIB, is_quantized
from tuneserve.finetune.memory.prefixes import CPU_PADDING
from tuneserve.finetune.memory.schedule import Schedule
from tuneserve.finetune.memory.search import Decisions, MemoryStrategy, search_strategy
from tuneserve.finetune.runtime.libraries import Runtime
from tuneserve.finetune.runtime.processes import local_rank
from tuneserve.finetune.tokens.encoder import Encoded, token_counts
from tuneserve.finetune.tokens.sharing import Sharing
from tuneserve.memory import GIB, main_memory
from tuneserve.model_files import check_config
from tuneserve.model_shape import ModelShape
from tuneserve.settings import Recipe, TrainSettings

# Of the main memory that is free, the share that training may take.
_MAIN_MEMORY_SHARE = 0.8
# When memory ran out after all, the next try may take this share of what was planned.
_STEP_DOWN = 0.75
# Tokens to train on from which the minute that compiling takes is won back.
WORTH_COMPILING = 60_000


@dataclass(frozen=True)
class Budget:
    """The settings with everything decided that was open, and the memory that follows: predicted
    peak (None: this model can't be planned) and what is there, in bytes.

    `compiled`: the layers are compiled (CPU). `search_within` finds the strategy for fewer bytes.
    """

    settings: TrainSettings
    four_bit: bool
    compiled: bool
    predicted: int | None
    available: int
    chosen: str
    search_within: Callable[[float], MemoryStrategy] | None = None

    def describe(self) -> str:
        """What was chosen and why, in a sentence."""
        if self.predicted is None:
            return f"memory can't be planned for this architecture; {self.chosen}"
        room = f"{self.predicted / GIB:.1f} GiB planned"
        if self.available > 0:
            room += f" of {self.available / GIB:.1f} that are free"
        else:
            room += ", and nothing is free"
        if self.predicted > self.available:
            return (
                f"WARNING: memory may not suffice: {room}, with {self.chosen}; shorter examples "
                "(max_seq_length) or fewer at a time (batch_size) take less"
            )
        return f"{self.chosen}: {room}"

    def decisions(self) -> Decisions:
        return Decisions.of(self.settings, four_bit=self.four_bit)

    def smaller(self, original: TrainSettings) -> Budget | None:
        """A budget for clearly less memory; None if no open setting can save any."""
        if self.search_within is None or self.predicted is None:
            return None
        found = self.search_within(self.predicted * _STEP_DOWN)
        if found.memory.total >= self.predicted:
            return None
        return replace(
            self, settings=found.decisions.applied(original), four_bit=found.decisions.load_in_4bit,
            compiled=found.compiled, predicted=found.memory.total, chosen=found.describe(),
        )  # fmt: skip


def plan_budget(
    recipe: Recipe,
    runtime: Runtime,
    checkpoint: Path,
    train: Sequence[Encoded],
    schedule: Schedule,
    sharing: Sharing | None = None,
) -> Budget:
    """Plan training on the examples as they are; the longest ones decide the peak. With `sharing`
    their shared beginnings are computed once."""
    config = check_config(checkpoint / "config.json")
    return budget_for(recipe, runtime, config, train, schedule, sharing)


def budget_for(
    recipe: Recipe,
    runtime: Runtime,
    config: Mapping[str, Any],
    train: Sequence[Encoded],
    schedule: Schedule,
    sharing: Sharing | None = None,
) -> Budget:
    """`plan_budget` for a base of which there is only config.json's content."""
    settings = recipe.train
    available = available_bytes(runtime, settings.vram)
    recipe = with_precision_of_base(recipe, config)
    computed = sharing.computed if sharing is not None else None
    saved = computed(settings.batch_size).saved if computed is not None else 0.0
    try:
        shape = ModelShape.of(config)
    except UsageError:
        if settings.gradient_checkpointing == "auto":
            settings = settings.model_copy(update={"gradient_checkpointing": "unsloth"})
        four_bit = bool(recipe.model.load_in_4bit)
        compiled = compiles(settings, runtime, train, schedule, saved=saved)
        return Budget(settings, four_bit, compiled, None, available, "activations recomputed")
    compiled = compiles(settings, runtime, train, schedule, saved=saved)
    unit = CPU_PADDING if runtime.device == "cpu" else 1
    lengths = [-(-len(item.input_ids) // unit) * unit for item in train]

    def search_within(room: float) -> MemoryStrategy:
        return search_strategy(
            shape, recipe, lengths, available=room, device=runtime.device,
            padded=not packs(settings, runtime.device), compiled=compiled,
            value_bytes=4 if runtime.precision == "fp32" else 2, computed=computed,
        )  # fmt: skip

    found = search_within(available)
    return Budget(
        found.decisions.applied(settings), found.decisions.load_in_4bit, found.compiled,
        found.memory.total,
        available, found.describe(), search_within,
    )  # fmt: skip


def as_before(recipe: Recipe, decisions: Decisions) -> Recipe:
    """The recipe with what was decided for an earlier part of the same training: but for the
    examples at a time, if another number of processes shares them out now."""
    train = decisions.applied(recipe.train)
    if train.examples_per_step != recipe.train.examples_per_step:
        open_again = recipe.train.model_dump(include={"batch_size", "gradient_accumulation"})
        train = train.model_copy(update=open_again)
    train = train.model_copy(update={"speed": "as_given"})
    model = recipe.model.model_copy(update={"load_in_4bit": decisions.load_in_4bit})
    return recipe.model_copy(update={"model": model, "train": train})


def compiles(
    settings: TrainSettings,
    runtime: Runtime,
    train: Sequence[Encoded],
    schedule: Schedule,
    *,
    saved: float = 0.0,
) -> bool:
    """Is it worth compiling the layers for these examples on this device? Where the settings leave
    gradient checkpointing open, it counts as off. `saved` is the share of the examples that is not
    computed.

    Raises UsageError if the settings ask for it and there is no compiler.
    """
    if runtime.device != "cpu" or settings.compile == "false" or settings.shard:
        return False
    if settings.compile == "true":
        if not has_compiler():
            raise UsageError("no C++ compiler is at hand", where="train.compile")
        return True
    counts = token_counts(train)
    tokens = schedule.steps * settings.examples_per_step * counts.tokens / counts.examples
    tokens *= 1 - saved
    # Plain checkpointing computes a layer again outside of what was compiled.
    recomputes = settings.gradient_checkpointing not in ("auto", "false")
    worth_it = tokens >= WORTH_COMPILING and not recomputes and runtime.precision == "bf16"
    return worth_it and has_compiler()


def has_compiler() -> bool:
    """Is the C++ compiler at hand that torch.compile calls?"""
    if sys.platform == "win32":
        return True  # Unsloth looks for Visual Studio itself, and trains uncompiled without it.
    usual = "clang++" if sys.platform == "darwin" else "g++"
    return shutil.which(shlex.split(os.environ.get("CXX", usual))[0]) is not None


def with_precision_of_base(recipe: Recipe, config: Mapping[str, Any]) -> Recipe:
    """The recipe, with 4-bit settled if the base itself is in 4 bits by its config.json."""
    if recipe.model.load_in_4bit is not None or not is_quantized(config):
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
    return free_for_training()


def free_for_training() -> int:
    """Bytes of main memory that training on the CPU may take."""
    return int(main_memory().available * _MAIN_MEMORY_SHARE)
