"""What the convert stage leaves in run.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import Field

from tuneserve.records import Number, Record


@dataclass(frozen=True)
class Check:
    """`contract` names what must hold; `detail` says what was found; `figures` are for programs."""

    contract: str
    passed: bool
    detail: str
    figures: Mapping[str, Number] = field(default_factory=dict)


class GGUFRecord(Record):
    """A GGUF that was made: its path, size, hash and quantization type."""

    path: str
    size_bytes: int
    sha256: str
    quantization: str


class ConvertInputs(Record):
    """What a result depends on besides the settings: the base checkpoint's path, and the SHA-256
    of the adapter's files by name."""

    base: str
    adapter: dict[str, str]


class MergedInto(Record):
    """The base checkpoint that the adapter was merged into, and how its weights are stored."""

    path: str
    weights: str


class Mix(Record):
    """Types by tensor that were chosen for this model: the bytes of all tensors, and the mean KL
    divergence (nats) from the unrounded model on the answers they were chosen by, with Q4_K_M's
    beside them; `passes` over those answers were made."""

    types: dict[str, str]
    bytes: int
    divergence: float
    baseline_bytes: int
    baseline_divergence: float
    passes: int


class ConvertOutput(Record):
    """What later stages read of a conversion: the two GGUFs."""

    tuned: GGUFRecord
    base: GGUFRecord


class ConvertResult(ConvertOutput):
    """A finished conversion: tensors by type and those that got another type than wanted, the
    checks, a generated sample, seconds of each part, the settings as JSON. `merged_checkpoint` is
    the path of the Hugging Face checkpoint where one was asked for; `mix` are AUTO's
    types; `handover` are the files written beside the GGUFs."""

    tensor_types: dict[str, int]
    fallbacks: dict[str, int]
    verification: list[Check]
    sample: str
    seconds: dict[str, float]
    settings: dict[str, Any]
    inputs: ConvertInputs
    merged_into: MergedInto
    merged_checkpoint: str | None = None
    mix: Mix | None = None
    handover: list[str] = Field(default_factory=list)


class AdapterResult(Record):
    """The adapter as a GGUF of its own; `base` is the path of the GGUF that it belongs to."""

    path: str
    size_bytes: int
    sha256: str
    base: str
    verification: list[Check]
    inputs: ConvertInputs
