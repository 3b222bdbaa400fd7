"""The run directory: everything one fine-tune produced, and the record of how.

runs/NAME/
  run.json      settings, versions, input hashes, each stage's result and timing
  data/         train.jsonl, eval.jsonl, test.jsonl as used
  checkpoints/  resumable training state
  adapter/      the LoRA adapter with the tokenizer
  gguf/         NAME-Q4_K_M.gguf, base-Q4_K_M.gguf, …
  bench/        report.html, report.md, report.json, answers.jsonl
"""

from __future__ import annotations

import fcntl
import importlib.metadata
import json
import platform
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tuneserve.errors import TuneserveError, UsageError
from tuneserve.files import write_json
from tuneserve.settings import Recipe

RUNS = Path("runs")
STAGES = ("train", "convert", "bench")
RECORDED_PACKAGES = (
    "tuneserve", "unsloth", "unsloth_zoo", "torch", "transformers", "peft", "trl", "datasets",
    "bitsandbytes", "llama-cpp-python", "gguf",
)  # fmt: skip


@dataclass
class StageRecord:
    """What a running stage wants remembered; `result` is filled by the stage. One that replaces its
    files at its end calls `withdraw` just before: from then on the old record is wrong."""

    withdraw: Callable[[], None]
    result: dict[str, Any] = field(default_factory=dict)


class RunDirectory:
    """One run. Paths are properties; run.json is read fresh and replaced whole at each write."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.name = root.name

    @classmethod
    def named(cls, name: str) -> RunDirectory:
        """The run `runs/NAME`; NAME must be a plain directory name."""
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name):
            raise UsageError(
                "a run's name has letters, digits, '.', '_' and '-' only", where=f"--run {name}"
            )
        return cls(RUNS / name)

    @property
    def record_path(self) -> Path:
        return self.root / "run.json"

    @property
    def data(self) -> Path:
        return self.root / "data"

    @property
    def checkpoints(self) -> Path:
        return self.root / "checkpoints"

    @property
    def adapter(self) -> Path:
        return self.root / "adapter"

    @property
    def gguf(self) -> Path:
        return self.root / "gguf"

    @property
    def bench(self) -> Path:
        return self.root / "bench"

    def tuned_gguf(self, quantization: str) -> Path:
        return self.gguf / f"{self.name}-{quantization}.gguf"

    def base_gguf(self, quantization: str) -> Path:
        return self.gguf / f"base-{quantization}.gguf"

    @property
    def lora_gguf(self) -> Path:
        """The adapter as a GGUF of its own."""
        return self.gguf / f"{self.name}-lora-F16.gguf"

    def split(self, name: str) -> Path:
        """Path of the 'train', 'eval' or 'test' examples as used."""
        return self.data / f"{name}.jsonl"

    def require(self) -> RunDirectory:
        """This run, or UsageError naming those that exist."""
        if not self.record_path.is_file():
            known = sorted(path.parent.name for path in RUNS.glob("*/run.json"))
            raise UsageError(
                "no such run",
                where=str(self.root),
                hint=f"Runs here: {', '.join(known)}." if known else "Start one: tuneserve train",
            )
        return self

    def require_stage(self, stage: str) -> dict[str, Any]:
        """The finished stage's result, or UsageError saying which command makes it."""
        self.require()
        entry = self.read().get("stages", {}).get(stage)
        if not entry:
            raise UsageError(
                f"this run has no finished '{stage}' stage",
                where=str(self.root),
                hint=f"Run it first: tuneserve {stage} --run {self.name}",
            )
        result: dict[str, Any] = entry["result"]
        return result

    def read(self) -> dict[str, Any]:
        """run.json, or an empty record for a new run."""
        try:
            record: dict[str, Any] = json.loads(self.record_path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except json.JSONDecodeError as error:
            raise TuneserveError(
                f"not valid JSON ({error.msg})",
                where=f"{self.record_path}:{error.lineno}",
                hint="Restore it, or delete the run directory and start the run again.",
            ) from error
        return record

    def saved_settings(self) -> dict[str, dict[str, Any]]:
        settings: dict[str, dict[str, Any]] = self.read().get("settings", {})
        return settings

    def update(self, **changes: Any) -> None:
        """Merge top-level keys into run.json."""
        self.root.mkdir(parents=True, exist_ok=True)
        record = self.read() or {"name": self.name, "created": _now()}
        record.update(changes)
        write_json(self.record_path, record)

    def save_settings(self, recipe: Recipe) -> None:
        self.update(settings=recipe.model_dump(mode="json"))

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Hold the run: raises TuneserveError if another process does. Ends with the process."""
        self.root.mkdir(parents=True, exist_ok=True)
        with (self.root / ".lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise TuneserveError(
                    "another tuneserve is working on this run",
                    where=str(self.root),
                    hint="Wait until it is done, end it, or name another run with --run.",
                ) from None
            yield

    @contextmanager
    def stage(self, name: str, *, keep: bool = False) -> Iterator[StageRecord]:
        """Time a stage; record its result, settings' versions and platform if it succeeds.

        A stage that is run again takes its own and all later results out, since they no longer
        describe what is in the directory: at once, or with `keep` when it withdraws them.
        """
        entry = StageRecord(lambda: self.update(stages=self._stages_before(name)))
        if not keep:
            entry.withdraw()
        started = time.monotonic()
        yield entry
        finished = {
            "finished": _now(),
            "seconds": round(time.monotonic() - started, 1),
            "result": entry.result,
        }
        stages = {**self._stages_before(name), name: finished}
        self.update(stages=stages, versions=versions(), platform=platform.platform())

    def _stages_before(self, name: str) -> dict[str, Any]:
        """The records of the stages that this one builds on."""
        stages = self.read().get("stages", {})
        before = STAGES[: STAGES.index(name)]
        return {key: stages[key] for key in stages if key in before}


def versions() -> dict[str, str]:
    """Versions of the packages that shape the result, and of Python."""
    found = {"python": platform.python_version()}
    for package in RECORDED_PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
