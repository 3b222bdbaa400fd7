"""The memory at hand, and what training does with it: said before it starts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.mask import Encoded
from finetune.plan import GIB, Shape, fastest_checkpointing, training_memory
from finetune.planning import RESERVED_GIB
from finetune.runtime import Runtime
from tuneserve.errors import UsageError
from tuneserve.settings import Recipe, TrainSettings

# Of the main memory that is free, the share that training may take.
_MAIN_MEMORY_SHARE = 0.8


@dataclass(frozen=True)
class Budget:
    """Predicted peak of training and what is there, in bytes (None: this model can't be planned),
    and the settings with every 'auto' of memory decided."""

    settings: TrainSettings
    predicted: int | None
    available: int

    def describe(self) -> str:
        """What was chosen and why, in a sentence."""
        way = {"false": "off", "true": "plain", "unsloth": "offloaded"}
        chosen = f"gradient checkpointing {way[self.settings.gradient_checkpointing]}"
        if self.predicted is None:
            return f"memory can't be planned for this architecture; {chosen}"
        room = f"{self.predicted / GIB:.1f} GiB planned of {self.available / GIB:.1f}"
        if self.predicted > self.available:
            return (
                f"WARNING: memory may not suffice: {room}, {chosen}; a smaller batch_size with "
                "more gradient_accumulation takes less"
            )
        return f"memory: {room}, {chosen}"


def plan_budget(
    recipe: Recipe, runtime: Runtime, checkpoint: Path, train: Sequence[Encoded]
) -> Budget:
    """Plan training on the examples as they are; the longest ones decide the peak."""
    settings = recipe.train
    available = available_bytes(runtime, settings.vram)
    longest = max(len(item.input_ids) for item in train)
    figures: dict[str, Any] = {
        "length": longest if runtime.device == "cuda" else -(-longest // 16) * 16,
        "four_bit": recipe.model.load_in_4bit,
        "device": runtime.device,
        "value_bytes": 4 if runtime.precision == "fp32" else 2,
    }
    try:
        shape = Shape.read(checkpoint)
    except UsageError:
        return Budget(_decided(settings, "unsloth"), None, available)
    chosen = fastest_checkpointing(shape, settings, available=available, **figures)
    settings = _decided(settings, chosen)
    predicted = training_memory(shape, settings, **figures).total
    return Budget(settings, predicted, available)


def available_bytes(runtime: Runtime, vram: float) -> int:
    """Memory that training may take: of the GPU, or of the machine where it trains on the CPU."""
    if runtime.device == "cuda":
        free: int = runtime.torch.cuda.mem_get_info()[0]
        if vram:
            free = min(free, int(vram * GIB))
        return free - int(RESERVED_GIB * GIB)
    lines = Path("/proc/meminfo").read_text().splitlines()
    kilobytes = next(line.split()[1] for line in lines if line.startswith("MemAvailable"))
    return int(int(kilobytes) * 1024 * _MAIN_MEMORY_SHARE)


def _decided(settings: TrainSettings, chosen: str) -> TrainSettings:
    if settings.gradient_checkpointing != "auto":
        return settings
    return settings.model_copy(update={"gradient_checkpointing": chosen})
