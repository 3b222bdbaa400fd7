"""How fast an earlier run trained a base of this shape on this machine."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuneserve.errors import TuneserveError
from tuneserve.finetune.memory.budget import WORTH_COMPILING
from tuneserve.finetune.training.result import TrainResult
from tuneserve.model_files import check_config
from tuneserve.model_shape import ModelShape
from tuneserve.run import RunDirectory, processor, runs_directory
from tuneserve.settings import TrainSettings

# Settings that the speed of a step does not depend on.
_OTHER_SETTINGS = {
    "alpha", "use_rslora", "epochs", "max_steps", "learning_rate", "loraplus_ratio", "scheduler",
    "warmup_fraction", "weight_decay", "max_grad_norm", "evaluations", "early_stopping_patience",
    "max_general_rise", "keep_checkpoints", "checkpoint_minutes", "seed",
}  # fmt: skip
# Fewer steps say too little: a later one may compile for a new shape.
_FEWEST_STEPS = 30
# Examples of other lengths train at another speed.
_LIKE_LENGTHS = 1.5
# Settings of the environment that change how fast a CPU computes.
_ENVIRONMENT = ("OMP_NUM_THREADS", "ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA")


@dataclass(frozen=True)
class MeasuredSpeed:
    """The examples' own tokens a second in a run's steps after the first."""

    run: str
    tokens_per_second: float


def machine_name(torch: Any, device: str) -> str:
    """What computes here: the GPU's name, or the CPU's with the environment's settings for it."""
    if device == "cuda":
        return str(torch.cuda.get_device_name())
    limits = [f"{name}={os.environ[name]}" for name in _ENVIRONMENT if os.environ.get(name)]
    return ", ".join([processor(), *limits])


def measured_speed(
    shape: ModelShape,
    settings: TrainSettings,
    *,
    device: str,
    machine: str,
    length: float,
    tokens: int,
    runs: Path | None = None,
) -> MeasuredSpeed | None:
    """The speed of the latest finished training in `runs` of such a base under such settings, of
    examples about as long (mean `length` in tokens), on this very machine. A training of `tokens`
    that is worth compiling is not one that was not."""
    wanted = _of_speed(settings.model_dump(mode="json"))
    found: list[tuple[float, MeasuredSpeed]] = []
    for record in (runs or runs_directory()).glob("*/run.json"):
        run = RunDirectory(record.parent)
        try:
            result = run.finished("train", TrainResult)
            saved = _of_speed(run.read().settings.get("train", {}))
            if result is None or (result.device, result.machine) != (device, machine):
                continue
            base = ModelShape.of(check_config(Path(result.base.path) / "config.json"))
        except (TuneserveError, OSError):
            continue  # a run that is damaged, or whose base is gone, says nothing here
        steps = result.steps.done - (result.steps.resumed_from or 0)
        counts = result.tokens["train"]
        mean = counts.tokens / max(counts.examples, 1)
        trained = result.steps.planned * settings.examples_per_step * mean
        compiles_alike = (trained >= WORTH_COMPILING) == (tokens >= WORTH_COMPILING)
        known = result.steady_tokens_per_second > 0 and steps >= _FEWEST_STEPS
        alike = compiles_alike and 1 / _LIKE_LENGTHS <= mean / length <= _LIKE_LENGTHS
        if saved == wanted and alike and base == shape and known:
            speed = MeasuredSpeed(run.name, result.steady_tokens_per_second)
            found.append((record.stat().st_mtime, speed))
    return max(found, key=lambda one: one[0])[1] if found else None


def _of_speed(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {name: of for name, of in settings.items() if name not in _OTHER_SETTINGS}
