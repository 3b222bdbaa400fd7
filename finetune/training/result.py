"""What the training stage leaves in run.json."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from tuneserve.base.resolve import HUB_ID
from tuneserve.finetune.data.prepare import DataRecord
from tuneserve.finetune.memory.search import Decisions
from tuneserve.finetune.tokens.encoder import TokenCounts
from tuneserve.finetune.training.losses import HeldOutLoss
from tuneserve.records import Record


class TrainedBase(Record):
    """The base model: what was asked for, its checkpoint directory, its name, and the SHA-256 of
    its weights and config.json by file."""

    spec: str
    path: str
    name: str
    sha256: dict[str, str] = Field(default_factory=dict)

    @property
    def repository(self) -> str | None:
        """The hub's repository that it was taken from; None for a folder or a file, whatever its
        name looks like."""
        if self.spec.endswith(".gguf") or not HUB_ID.fullmatch(self.spec):
            return None
        is_folder = Path(self.path).parts[-2:] == Path(self.spec).parts
        return None if is_folder else self.spec


class Losses(Record):
    """(optimizer step, loss per answer token in nats) of the training batches, of the eval split
    and of general examples."""

    train: list[tuple[int, float]]
    eval: list[tuple[int, float]]
    general: list[tuple[int, float]]


class Steps(Record):
    """Optimizer steps: planned, done, the one whose adapter was kept, and the one that a stopped
    training was taken up after."""

    planned: int
    done: int
    best: int
    resumed_from: int | None


class EpochRecord(Record):
    """Examples that an epoch visits, and how many of them are general ones."""

    examples: int
    general: int


class PeakMemory(Record):
    """Largest memory use of the process in bytes; `gpu_bytes` where there is a GPU."""

    resident_bytes: int
    gpu_bytes: int | None = None


class MemoryRecord(Decisions):
    """How training was fitted into the memory: the decisions, and the predicted (None: this model
    can't be planned) and the measured peak in bytes."""

    chosen: str
    predicted_bytes: int | None
    measured_bytes: int


class TrainOutput(Record):
    """What later stages read of a TrainResult. Only the base has to be there. `files`: SHA-256 of
    the adapter's files and of the splits, by path in the run."""

    base: TrainedBase
    files: dict[str, str] = Field(default_factory=dict)
    losses: Losses | None = None
    steps: Steps | None = None


class TrainResult(Record):
    """A finished training. `tokens` and `held_out` are by part of the data, `examples` by split;
    `tokens_per_second` counts the examples' own tokens in the training steps of all processes,
    without padding and without evaluations, whether they were computed once or each time;
    `steady_tokens_per_second` those of the steps after the first, which compiles (0: unknown).
    `machine` is what computed them (empty: of an earlier release); `max_seq_length` the length
    that examples were held to, which a base may have made less than the recipe's (0: unknown)."""

    base: TrainedBase
    files: dict[str, str] = Field(default_factory=dict)
    examples: dict[str, int]
    data: DataRecord
    tokens: dict[str, TokenCounts]
    epoch: EpochRecord
    device: str
    machine: str = ""
    max_seq_length: int = 0
    precision: str
    trainable_parameters: int
    steps: Steps
    losses: Losses
    held_out: dict[str, HeldOutLoss]
    training_seconds: float
    evaluation_seconds: float
    tokens_per_second: float
    steady_tokens_per_second: float = 0.0
    peak_memory: PeakMemory
    memory_plan: MemoryRecord
