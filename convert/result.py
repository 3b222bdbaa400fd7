"""What the convert stage leaves in run.json."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator

from tuneserve.console import percent
from tuneserve.errors import UsageError
from tuneserve.identity import known_sha256
from tuneserve.records import Number, Record
from tuneserve.run import RunDirectory


@dataclass(frozen=True)
class Check:
    """`contract` names what must hold; `detail` says what was found; `figures` are for programs."""

    contract: str
    passed: bool
    detail: str
    figures: Mapping[str, Number] = field(default_factory=dict)


class GGUFRecord(Record):
    """A GGUF that was made: its path, size, hash and quantization type; `mixture` says which types
    it has where they are not those of the quantization."""

    path: str
    size_bytes: int
    sha256: str
    quantization: str = Field(pattern=r"^[A-Za-z0-9_.-]{1,40}$")  # part of a file's name
    mixture: str = ""

    @property
    def called(self) -> str:
        """The quantization, with its mixture."""
        return f"{self.quantization}, {self.mixture}" if self.mixture else self.quantization


def types_in_words(types: Iterable[str]) -> str:
    """'58 Q8_0, 45 Q6_K', most first."""
    return ", ".join(f"{count} {kind}" for kind, count in Counter(types).most_common())


class ConvertInputs(Record):
    """What a result depends on besides the settings: the base checkpoint's path, and the SHA-256
    of the adapter's files by name."""

    base: str
    adapter: dict[str, str]

    def changed(self, now: ConvertInputs) -> list[str]:
        """What is not as it was, in words."""
        found = [] if now.base == self.base else [f"the base was {self.base}, is {now.base}"]
        return found if now.adapter == self.adapter else [*found, "the adapter has changed since"]

    @field_validator("adapter")
    @classmethod
    def _of_the_adapter(cls, files: dict[str, str]) -> dict[str, str]:
        for name in files:
            if name in ("", ".", "..") or "/" in name or "\0" in name:
                raise ValueError(f"{name!r} names a file outside the adapter")
        return files


class MergedInto(Record):
    """The base checkpoint that the adapter was merged into, and how its weights are stored."""

    path: str
    weights: str


class TensorUpdate(Record):
    """What quantization keeps of a tensor's change by the tune: the share `kept` (see
    convert/verify/update.py), the tensor's type, and the change's `size`, its squared norm."""

    name: str
    type: str
    kept: float
    size: float


WIDEST = 1.0
"""An interval of the share of a gain that is wider than the gain says nothing."""


class GainKept(Record):
    """What a file keeps of the gain on held-out reference answers.

    `share` with its 95 % interval `low` to `high`; None where the gain can't be told from none.
    `base`, `merged` and `file`: log-likelihood a token (nats) under the trainer's base, the tuned
    model and the file, of `tokens` tokens of `examples` answers. Of `answers` all tokens were
    compared: `same_answers` are those of which the file finds the same tokens most likely as the
    tuned model does, `right_…` those whose reference a model writes greedily. `update_kept`: the
    share of all tensors' updates, None for an adapter that stays beside its base. Where the share
    falls short, `base_file` is the log-likelihood a token under the base's own file of the same
    types, and `beside_base` the share of the gain that lies between the two files, its interval
    ending at `beside_high`.
    """

    share: float | None
    low: float | None
    high: float | None
    base: float
    merged: float
    file: float
    examples: int
    tokens: int
    answers: int
    same_answers: int
    right_base: int
    right_merged: int
    right_file: int
    update_kept: float | None
    base_file: float | None = None
    beside_base: float | None = None
    beside_high: float | None = None

    def keeps(self, limit: float) -> bool:
        """Is at least this share of the tune kept?

        The estimate on answers decides, unless its interval reaches from below the limit up to the
        whole gain, or says nothing: then (few answers, a short training) the share of the updates
        does, which needs no answers. An estimate below the limit does not count where the base's
        own file lacks as much: what rounding takes from any model is not the tune, whose update is
        there and does for the file what it does for the model.
        """
        if self.share is not None and self.low is not None and self.high is not None:
            if self.share >= limit and self.high - self.low <= WIDEST:
                return True
            if self.high < 1.0 and not self._beside_base_keeps(limit):
                return False
        return self.update_kept is None or self.update_kept >= limit

    def _beside_base_keeps(self, limit: float) -> bool:
        if self.beside_base is None or self.beside_high is None:
            return False
        return self.beside_base >= limit or self.beside_high >= 1.0

    def describe(self) -> str:
        """In words: the share with its interval, log-likelihoods, greedy answers, updates."""
        words = "a gain can't be told from none"
        if self.share is not None and self.low is not None and self.high is not None:
            within = f"{percent(self.low)} to {percent(self.high)}"
            words = f"{percent(self.share)} ({within}) of the gain is kept"
        words += (
            f" on {self.examples} held-out answers: log-likelihood a token {self.base:.3f} (base), "
            f"{self.merged:.3f} (tuned), {self.file:.3f} (file)"
        )
        if self.answers:
            words += (
                f"; {self.same_answers} of {self.answers} answers token by token as the tuned "
                f"model's, right {self.right_base} (base), {self.right_merged} (tuned), "
                f"{self.right_file} (file)"
            )
        if self.base_file is not None and self.beside_base is not None:
            words += (
                f"; between the base's own file ({self.base_file:.3f}) and this one lie "
                f"{percent(self.beside_base)} of it"
            )
        if self.update_kept is not None:
            words += f"; {percent(self.update_kept)} of the weights' update is kept"
        return words


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
    """What later stages read of a conversion.

    `tuned` and `base` are GGUFs of one quantization. With `as_adapter` the tuned model is `base`
    with the LoRA GGUF `tuned` on it. `gain`: what of the tune is kept.
    """

    tuned: GGUFRecord
    base: GGUFRecord
    as_adapter: bool = False
    gain: GainKept | None = None

    def files(self, run: RunDirectory) -> tuple[Path, Path | None]:
        """The GGUF of the tuned model's weights in this run, and the LoRA GGUF that goes on it. In
        a run whose directory was renamed they have the name that they were made with."""
        if self.as_adapter:
            return run.base_gguf(self.base.quantization), self._made(run, run.lora_gguf)
        return self._made(run, run.tuned_gguf(self.tuned.quantization)), None

    def _made(self, run: RunDirectory, usual: Path) -> Path:
        return usual if usual.is_file() else _of_recorded_name(run.gguf, self.tuned) or usual


def _of_recorded_name(folder: Path, recorded: GGUFRecord) -> Path | None:
    """The GGUF in a folder that has the name of the recorded one."""
    name = Path(recorded.path).name
    return next((path for path in folder.glob("*.gguf") if path.name == name), None)


class ConvertResult(ConvertOutput):
    """A finished conversion: tensors by type and those that got another type than wanted, the
    checks, a generated sample, seconds of each part, the settings as JSON. `merged_checkpoint` is
    the path of the Hugging Face checkpoint where one was asked for; `mix` are auto's types;
    `handover` are the files written beside the GGUFs, `handover_sha256` their hashes. `updates`:
    what each changed tensor keeps of its change, most lost first; `overrides`: tensors that got a
    finer type than the quantization's to keep the gain; `before_repair`: what would have been kept
    without."""

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
    handover_sha256: dict[str, str] = Field(default_factory=dict)
    updates: list[TensorUpdate] = Field(default_factory=list)
    overrides: dict[str, str] = Field(default_factory=dict)
    before_repair: GainKept | None = None


def verified_hash(path: Path, recorded: GGUFRecord, run: RunDirectory) -> str:
    """The file's SHA-256, which must be the one that the conversion recorded. Raises UsageError if
    it is not, or there is no such file."""
    again = f"Make it again: tuneserve convert --run {run.name} --force"
    if not path.is_file():
        if made := _of_recorded_name(path.parent, recorded):
            again = f"The run was renamed: mv {made} {path}, or make it again."
        raise UsageError("no such GGUF", where=str(path), hint=again)
    digest = known_sha256(path)
    if digest != recorded.sha256:
        message = "is not the file that the conversion made (its SHA-256 differs)"
        raise UsageError(message, where=str(path), hint=again)
    return digest


class AdapterResult(Record):
    """The adapter as a GGUF of its own; `base` is the path of the GGUF that it belongs to."""

    path: str
    size_bytes: int
    sha256: str
    base: str
    verification: list[Check]
    inputs: ConvertInputs
    gain: GainKept | None = None
