"""The run directory: everything one fine-tune produced, and the record of how.

runs/NAME/
  run.json      settings, versions, input hashes, each stage's result and timing
  data/         train.jsonl, eval.jsonl, test.jsonl as used
  checkpoints/  resumable training state
  adapter/      the LoRA adapter with the tokenizer
  gguf/         NAME-Q4_K_M.gguf, base-Q4_K_M.gguf, …
  bench/        report.html, report.md, report.json, answers.jsonl
  bench-journal.jsonl  everything that a benchmark has measured
  progress.jsonl       how far the last training is, or came
  logs/         what the stages said that `tuneserve ui` started
"""

from __future__ import annotations

import math
import os
import platform
import re
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from pydantic import Field

import tuneserve
from tuneserve.console import say
from tuneserve.durable import make_folder
from tuneserve.errors import TuneserveError, UsageError
from tuneserve.extras import installed_version
from tuneserve.files import clear_leftovers, set_aside, write_json
from tuneserve.foreign import check_own_folders, check_plain, leads_nowhere
from tuneserve.locks import HeldError, check_lockable, hold, holder
from tuneserve.records import Record, parse, read_versioned
from tuneserve.settings import AUTO_ONLY, Recipe

# The form of run.json. A new number for a change that older releases would misread or lose (a
# key with another meaning, a further stage); none for a further key, which they keep.
RUN_SCHEMA = 1
STAGES = ("train", "convert", "bench")
DAMAGED = "damaged"
"""Stands behind the name of a record that could not be read and was set aside."""
RECORDED_PACKAGES = (
    "unsloth", "unsloth_zoo", "torch", "transformers", "peft", "trl", "datasets", "bitsandbytes",
    "llama-cpp-python", "gguf",
)  # fmt: skip


Result = TypeVar("Result", bound=Record)


def runs_directory() -> Path:
    """The folder that holds the runs: $TUNESERVE_RUNS, or 'runs' in the current one."""
    return Path(os.environ.get("TUNESERVE_RUNS") or "runs")


class StageRecord(Record):
    """A finished stage in run.json: when it was done (ISO 8601), its wall time in seconds, and its
    result, whose type is the stage's own."""

    finished: str = ""
    seconds: float = 0.0
    result: dict[str, Any]


class RunRecord(Record):
    """run.json. `settings` are a recipe's tables as saved, `versions` those of the packages that
    the last stage ran with, `lora` what `convert --adapter-only` made."""

    schema_version: int = Field(default=RUN_SCHEMA, alias="schema")
    name: str = ""
    created: str = ""
    settings: dict[str, dict[str, Any]] = Field(default_factory=dict)
    stages: dict[str, StageRecord] = Field(default_factory=dict)
    versions: dict[str, str] = Field(default_factory=dict)
    platform: str = ""
    lora: dict[str, Any] | None = None


@dataclass
class RunningStage:
    """What run.json is to keep of a running stage; the stage fills `result`. A stage that replaces
    its files at its end calls `withdraw` just before, since the old record then no longer holds."""

    withdraw: Callable[[], None]
    result: Record = field(default_factory=Record)


class RunDirectory:
    """One run and its paths. run.json is read fresh and replaced whole at each write."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.name = root.name
        self.record_path = root / "run.json"
        self.lock = root / ".lock"
        self.data = root / "data"
        self.checkpoints = root / "checkpoints"
        self.adapter = root / "adapter"
        self.gguf = root / "gguf"
        self.bench = root / "bench"
        self.logs = root / "logs"
        self.lora_gguf = self.gguf / f"{self.name}-lora-F16.gguf"
        """The adapter as a GGUF of its own."""

    @classmethod
    def named(cls, name: str) -> RunDirectory:
        """The run NAME in the folder of the runs: a plain directory name, or the path of such a
        directory, as a shell completes it (runs/NAME/)."""
        folder = runs_directory()
        given = Path(name)
        if (
            os.sep in name
            and given.name
            and (given.parent == Path() or given.parent.resolve() == folder.resolve())
        ):
            name = given.name
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name):
            raise UsageError(
                "a run's name has letters, digits, '.', '_' and '-' only", where=f"--run {name}"
            )
        return cls(folder / name)

    def tuned_gguf(self, quantization: str) -> Path:
        return self.gguf / f"{self.name}-{quantization}.gguf"

    def base_gguf(self, quantization: str) -> Path:
        return self.gguf / f"base-{quantization}.gguf"

    def split(self, name: str) -> Path:
        """Path of the 'train', 'eval' or 'test' examples as used."""
        return self.data / f"{name}.jsonl"

    @property
    def held_out(self) -> Path:
        """The examples that a conversion is verified with: those of 'test'; where none were held
        out, of 'eval' or, if there are none either, of 'train'."""
        there = (self.split(name) for name in ("test", "eval", "train"))
        filled = (path for path in there if path.is_file() and path.stat().st_size)
        return next(filled, self.split("test"))

    def require(self) -> RunDirectory:
        """This run, or UsageError naming those that exist, or saying that its record is of a newer
        release, that it is a link to nothing or that it holds what is no file."""
        self.require_folder()
        self.check_there()
        check_plain(self.root)
        self.read()
        return self

    def require_folder(self) -> RunDirectory:
        """This run, whatever its record says, or UsageError naming those that exist."""
        if not self.is_there:
            known = sorted(run.name for run in all_runs())
            raise UsageError(
                "no such run",
                where=str(self.root),
                hint=f"Runs here: {', '.join(known)}." if known else "Start one: tuneserve train",
            )
        return self

    @property
    def is_there(self) -> bool:
        """Is there a record, be it a damaged one that was set aside, or a link to nothing in the
        run's place or in the record's?"""
        return (
            os.path.lexists(self.record_path)
            or any(self.root.glob(f"{self.record_path.name}.{DAMAGED}-*"))
            or self.leads_nowhere
        )

    @property
    def leads_nowhere(self) -> bool:
        """Is the run's folder a link to nothing?"""
        return leads_nowhere(self.root)

    def check_there(self) -> None:
        """Raise UsageError where the run, or its record, is a link to nothing."""
        for path in (self.root, self.record_path):
            if leads_nowhere(path):
                raise UsageError(
                    f"is a link to nothing ({path.readlink()})",
                    where=str(path),
                    hint=f"Bring back what it leads to, or remove it: tuneserve rm {self.name}",
                )

    @property
    def other_name_of(self) -> str | None:
        """The name of the run that this one's folder is only a link to; None if it is none."""
        if not self.root.is_symlink() or self.leads_nowhere:
            return None
        target = self.root.resolve()
        return target.name if target.parent == self.root.parent.resolve() else None

    def require_stage(self, stage: str, kind: type[Result]) -> Result:
        """The finished stage's result, or UsageError saying which command makes it."""
        result = self.require().finished(stage, kind)
        if result is None:
            raise UsageError(
                f"this run has no finished '{stage}' stage",
                where=str(self.root),
                hint=f"Run it first: tuneserve {stage} --run {self.name}",
            )
        return result

    def finished(
        self, stage: str, kind: type[Result], *, record: RunRecord | None = None
    ) -> Result | None:
        """The stage's result, None if it is not finished, in a `record` that was read already or
        that is read now. Raises TuneserveError for a result that is no `kind`."""
        entry = (record or self.read()).stages.get(stage)
        if entry is None:
            return None
        return parse(
            kind,
            entry.result,
            where=f"{self.record_path}, result of '{stage}'",
            hint=f"Make it again: tuneserve {stage} --run {self.name} --force",
        )

    def read(self) -> RunRecord:
        """run.json in today's form, or an empty record for a new run.

        Raises TuneserveError if it is damaged, UsageError if a newer release wrote it.
        """
        hint = (
            f"Restore it, or train again: tuneserve train --run {self.name} --force (the file is "
            "kept beside the new one)."
        )
        try:
            content = read_versioned(self.record_path, RUN_SCHEMA, hint=hint)
        except FileNotFoundError:
            return RunRecord()
        return parse(RunRecord, _migrated(content), where=str(self.record_path), hint=hint)

    def set_aside_damaged(self) -> None:
        """If run.json can't be read, rename it, so that the run can begin anew; says so. Raises
        UsageError if a newer release wrote it."""
        try:
            self.read()
        except UsageError:
            raise
        except TuneserveError as error:
            aside = set_aside(self.record_path, DAMAGED)
            say(f"note: {error.where}: {error.message}; kept as {aside.name}, the run begins anew")

    def saved_settings(self) -> dict[str, dict[str, Any]]:
        """The settings of the stages that ran. An earlier release also kept such of auto as had no
        effect on another quantization."""
        settings = self.read().settings
        convert = settings.get("convert", {})
        if convert.get("quantization") == "auto":
            return settings
        kept = {name: value for name, value in convert.items() if name not in AUTO_ONLY}
        return {**settings, "convert": kept} if convert else settings

    @property
    def thoughts(self) -> str:
        """What training did with thoughts: the run's setting [data] thoughts."""
        return str(self.saved_settings().get("data", {}).get("thoughts", "train"))

    @property
    def system_prompt(self) -> str:
        """What training put before examples without a system prompt: the run's [data] system."""
        return str(self.saved_settings().get("data", {}).get("system", ""))

    def update(self, **changes: Any) -> None:
        """Replace top-level keys of run.json; all others stay as they are.

        Raises TuneserveError for a figure that is no finite number: JSON has none such.
        """
        content = self.read().to_json() or {
            "schema": RUN_SCHEMA, "name": self.name, "created": _now(),
        }  # fmt: skip
        changed = RunRecord.model_validate({**content, **changes}).to_json()
        if broken := _not_finite(changed):
            raise TuneserveError(
                f"{broken} is no finite number, so it can't be recorded",
                where=str(self.record_path),
            )
        write_json(self.record_path, changed)

    def save_settings(self, recipe: Recipe) -> None:
        self.update(settings=recipe.model_dump(mode="json"))

    def check_writable(self) -> None:
        """Raise TuneserveError if the run can't be written; makes nothing."""
        self.check_there()
        check_lockable(self.lock)
        place = next(path for path in (self.root, *self.root.absolute().parents) if path.exists())
        if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
            raise TuneserveError(
                "can't be written" if place.is_dir() else "is a file where a folder has to be",
                where=str(place),
                hint="A run is written to runs/NAME here, or below $TUNESERVE_RUNS: "
                "start in one that you may write.",
            )

    def check_idle(self) -> None:
        """Raise TuneserveError if another process is working on the run at this moment."""
        if (by := holder(self.lock)) is not None:
            raise self._at_work(by)

    def _at_work(self, by: str) -> TuneserveError:
        return TuneserveError(
            f"another tuneserve is working on this run: {by}",
            where=str(self.root),
            hint="Wait until it is done, end it, or name another run with --run.",
        )

    @contextmanager
    def alone(self, *, damaged: bool = False) -> Iterator[None]:
        """Lock the run while the block runs. Raises TuneserveError if another process has the lock
        or, unless it may be `damaged`, its record can't be read; UsageError if a newer release
        wrote that, or a folder of the run lies elsewhere."""
        try:
            self.read()
        except UsageError:
            raise
        except TuneserveError:
            if not damaged:
                raise
        make_folder(self.root)
        check_own_folders(self.root)
        try:
            lock = hold(self.lock, wait=False)
        except HeldError as error:
            raise self._at_work(error.holder) from None
        try:
            self.tidy()
            yield
        finally:
            os.close(lock)

    def tidy(self) -> None:
        """Remove what stages that were killed have left half-written, in all folders of the run."""
        for folder, _, _ in os.walk(self.root):
            if os.access(folder, os.W_OK):
                clear_leftovers(Path(folder))

    @contextmanager
    def stage(self, name: str, *, keep: bool = False) -> Iterator[RunningStage]:
        """Time a stage; record its result, settings' versions and platform if it succeeds.

        A stage that is run again takes its own and all later results out, since they no longer
        describe what is in the directory: at once, or with `keep` when it withdraws them.
        """
        running = RunningStage(lambda: self.update(stages=self._stages_before(name)))
        if not keep:
            running.withdraw()
        started = time.monotonic()
        yield running
        finished = StageRecord(
            finished=_now(),
            seconds=round(time.monotonic() - started, 1),
            result=running.result.to_json(),
        )
        stages = {**self._stages_before(name), name: finished}
        self.update(stages=stages, versions=versions(), platform=platform.platform())

    def _stages_before(self, name: str) -> dict[str, StageRecord]:
        """The records of the stages that this one builds on."""
        before = STAGES[: STAGES.index(name)]
        return {key: entry for key, entry in self.read().stages.items() if key in before}


def _not_finite(value: Any, place: str = "") -> str | None:
    """The place of the first number in a JSON value that is not finite."""
    if isinstance(value, float):
        return None if math.isfinite(value) else place
    inner: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, dict):
        inner = value.items()
    elif isinstance(value, list | tuple):
        inner = enumerate(value)
    found = (_not_finite(part, f"{place}.{key}".lstrip(".")) for key, part in inner)
    return next((place for place in found if place), None)


def _migrated(content: dict[str, Any]) -> dict[str, Any]:
    """A run.json of an earlier form in today's. Schema 0, of runs made before there was a number,
    differs from 1 in that alone."""
    return {**content, "schema": RUN_SCHEMA}


def versions() -> dict[str, str]:
    """Versions of Python, of tuneserve and of the packages that shape the result."""
    found = {package: installed_version(package) for package in RECORDED_PACKAGES}
    return {
        "python": platform.python_version(),
        "tuneserve": tuneserve.__version__,
        **{package: version for package, version in found.items() if version is not None},
    }


def processor() -> str:
    """The CPU's name as the kernel gives it, or the machine type."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]} ({len(names)} threads)" if names else platform.machine()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def all_runs() -> list[RunDirectory]:
    """Every run in the folder of the runs, the newest first; links to nothing too."""
    folder = runs_directory()
    paths = sorted(folder.iterdir()) if folder.is_dir() else []
    runs = [run for run in map(RunDirectory, paths) if run.is_there]
    return sorted(runs, key=_recorded_at, reverse=True)


def _recorded_at(run: RunDirectory) -> float:
    """When its record was written, in seconds since 1970; 0 where that can't be told."""
    try:
        return run.record_path.stat().st_mtime
    except OSError:  # a link to nothing, or it was removed meanwhile
        return 0.0
