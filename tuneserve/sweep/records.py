"""The files of a sweep: runs/NAME-sweep with its record, its database, and a recipe and a log for
each trial, which is the run NAME-0, NAME-1, …"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from pydantic import Field

from tuneserve.changes import changed_settings, with_defaults
from tuneserve.errors import UsageError
from tuneserve.files import write_json
from tuneserve.records import Record, parse, read_versioned
from tuneserve.run import RunDirectory, runs_directory
from tuneserve.settings import Recipe

SCHEMA = 1
RECORD = "sweep.json"
DATABASE = "study.db"
BEST = "best.toml"
_TABLES = ("model", "data", "train")


class SweepRecord(Record):
    """sweep.json: what a sweep was begun with. `settings` are those of the recipe as it is, `over`
    what is varied, `data_sha256` the content of the examples, `grid` whether every combination is
    tried, `held_out` the number of examples in the eval split."""

    schema_version: int = Field(default=SCHEMA, alias="schema")
    name: str
    settings: dict[str, dict[str, Any]]
    over: list[str]
    data_sha256: str
    grid: bool
    held_out: int


class TrialResult(Record):
    """A trial. `state`: complete, pruned, failed or running; `varied`: its values of the settings
    that are varied; `evaluations`: (optimizer step, eval loss); `eval_loss`: of its best adapter
    (complete), or the last one (pruned), in nats per answer token; `reason`: why it failed."""

    number: int
    run: str
    state: str
    varied: dict[str, Any]
    evaluations: list[tuple[int, float]] = Field(default_factory=list)
    eval_loss: float | None = None
    reason: str = ""


class Comparison(Record):
    """The best trial beside the recipe as it is, over the examples of the eval split (`sources`
    that are independent). `ratio`: of their perplexities, with an interval that holds for all
    `candidates` together at `confidence`; `p`: adjusted for all of them (Holm). `better`: is the
    best better beyond chance?"""

    first: int
    best: int
    examples: int
    sources: int
    candidates: int
    confidence: float
    ratio: float
    low: float | None
    high: float | None
    p: float
    better: bool


class SweepResult(Record):
    """A sweep as it stands. `recipe` is the best trial's, without what the sweep itself needs."""

    name: str
    folder: str
    method: str
    trials: list[TrialResult]
    best: int | None = None
    recipe: str | None = None
    comparison: Comparison | None = None
    sentence: str = ""


class SweepFolder:
    """A sweep's folder and the runs of its trials."""

    def __init__(self, name: str) -> None:
        self.name = name
        RunDirectory.named(f"{name}-0")  # or UsageError for a name that no run can have
        self.root = runs_directory() / f"{name}-sweep"
        self.record_path = self.root / RECORD
        self.database = self.root / DATABASE
        self.best = self.root / BEST
        self.lock = self.root / ".lock"

    def run(self, number: int) -> RunDirectory:
        return RunDirectory.named(f"{self.name}-{number}")

    def recipe(self, number: int) -> Path:
        return self.root / f"trial-{number}.toml"

    def log(self, number: int) -> Path:
        return self.root / f"trial-{number}.log"

    def trial_lock(self, number: int) -> Path:
        """Held by the process that runs the trial."""
        return self.root / f".trial-{number}.lock"

    def read(self) -> SweepRecord | None:
        """The sweep's record; None for a new one. Raises UsageError if a newer release wrote it,
        TuneserveError if it is damaged."""
        hint = "Choose another --name."
        try:
            content = read_versioned(self.record_path, SCHEMA, hint=hint)
        except FileNotFoundError:
            return None
        return parse(SweepRecord, content, where=str(self.record_path), hint=hint)

    def begin(self, record: SweepRecord) -> SweepRecord:
        """Write the record of a new sweep, or compare with that of the one that is there.

        Raises UsageError if the sweep was begun otherwise, or runs of other origin have the names
        of its trials.
        """
        known = self.read()
        if known is not None:
            if differences := _differences(known, record):
                raise UsageError(
                    "a sweep that was begun otherwise is here",
                    where=str(self.root),
                    problems=differences,
                    hint="Give the same command to go on with it, or choose another --name.",
                )
            return known
        pattern = re.compile(rf"{re.escape(self.name)}-\d+")
        taken = [path.parent.name for path in runs_directory().glob("*/run.json")]
        if found := sorted(name for name in taken if pattern.fullmatch(name)):
            raise UsageError(
                f"there are runs with the names of trials: {', '.join(found)}",
                where=str(runs_directory()),
                hint="Choose another --name, or remove them: tuneserve rm",
            )
        write_json(self.record_path, record.to_json())
        return record


def new_record(
    name: str, recipe: Recipe, over: list[str], *, data_sha256: str, grid: bool, held_out: int
) -> SweepRecord:
    settings = recipe.model_dump(mode="json", include=set(_TABLES))
    return SweepRecord(
        schema=SCHEMA, name=name, settings=settings, over=over, data_sha256=data_sha256,
        grid=grid, held_out=held_out,
    )  # fmt: skip


def _differences(known: SweepRecord, now: SweepRecord) -> list[str]:
    """In what two records of one sweep differ. Whether it is a grid follows from --trials, which
    may be raised."""
    before = with_defaults(known.settings)
    found = changed_settings({table: before[table] for table in _TABLES}, now.settings)
    if known.over != now.over:
        found.append(f"--over was {' '.join(known.over)}, is {' '.join(now.over)}")
    if known.data_sha256 != now.data_sha256:
        found.append("the examples were others")
    return found
