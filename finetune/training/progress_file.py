"""How far a training is, in a file that others can read while it runs: runs/NAME/progress.jsonl.

One JSON object a line: the first tells the form, the others are a `Snapshot` each, after a step
(`loss` is then the mean since the line before), after an evaluation (`evaluated`) or within one
(`evaluating` says how far it is).
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tuneserve.charts import LossCurves
from tuneserve.durable import Appended
from tuneserve.files import errors_named, write_jsonl
from tuneserve.finetune.training.progress import Progress, Snapshot

FILE = "progress.jsonl"
SCHEMA = 1
# Lines of steps are as far apart, so that a training of days writes about ten thousand of them.
_LEAST_SECONDS = 1.0
_LINES_OF_THE_TIME = 2000


class Told(Snapshot):
    """A line of the file. `time` is of the clock (ISO 8601)."""

    time: str = ""
    evaluated: bool = False
    evaluating: str = ""


class ProgressFile:
    """Writes the file of one training. Raises OSError if it can't."""

    def __init__(self, path: Path, resumed_at: int | None) -> None:
        """A training that goes on keeps the lines up to the step that it goes on from."""
        kept = [] if resumed_at is None else _lines(path)
        rows = [row for row in kept if isinstance(row.get("step"), int | float)]
        write_jsonl(
            path,
            [{"schema": SCHEMA}, *(row for row in rows if row["step"] <= (resumed_at or 0))],
        )
        self._path = path
        self._file = Appended(path, seconds=math.inf)
        self._started = self._told = time.monotonic()
        self._losses: list[float] = []

    def close(self) -> None:
        self._file.close()

    def stepped(self, progress: Progress) -> None:
        """A step is done. Most are not written one by one."""
        now = time.monotonic()
        if progress.loss is not None and math.isfinite(progress.loss):
            self._losses.append(progress.loss)
        wait = max(_LEAST_SECONDS, (now - self._started) / _LINES_OF_THE_TIME)
        if now - self._told < wait and progress.step < progress.steps:
            return
        mean = sum(self._losses) / len(self._losses) if self._losses else None
        self._losses = []
        self._write(progress, loss=mean)

    def evaluated(self, progress: Progress) -> None:
        self._write(progress, evaluated=True)

    def evaluating(self, progress: Progress) -> None:
        if time.monotonic() - self._told >= _LEAST_SECONDS:
            self._write(progress, evaluating=progress.evaluating)

    def _write(self, progress: Progress, **more: Any) -> None:
        self._told = time.monotonic()
        now = datetime.now(UTC).isoformat(timespec="seconds")
        told = Told.model_validate({**progress.snapshot().to_json(), "time": now, **more})
        with errors_named(self._path):
            self._file.write(_line(told.model_dump(exclude_defaults=True)))


def _line(row: dict[str, Any]) -> bytes:
    """Figures that are no number have no form in JSON."""
    return json.dumps(row, allow_nan=False).encode() + b"\n"


@dataclass
class TrainingProgress:
    """What a training has told so far: the last line, the losses, and the tokens per second and
    the bytes of memory in use by step."""

    last: Told
    curves: LossCurves
    rates: list[tuple[int, float]] = field(default_factory=list)
    memory: list[tuple[int, float]] = field(default_factory=list)


def read_progress(path: Path) -> TrainingProgress | None:
    """What the file tells; None where there is none, or nothing in it yet. Lines that are of no
    such form are left out: a training may be writing the last one."""
    rows = _lines(path)
    if not rows or rows[0].get("schema") != SCHEMA:
        return None
    told = [one for one in map(_told, rows[1:]) if one is not None]
    if not told:
        return None
    steps = [one for one in told if not (one.evaluated or one.evaluating)]
    evaluations = [one for one in told if one.evaluated]

    def losses(name: str) -> list[tuple[int, float]]:
        return [(one.step, one.losses[name]) for one in evaluations if name in one.losses]

    return TrainingProgress(
        last=told[-1],
        curves=LossCurves(
            train=[(one.step, one.loss) for one in steps if one.loss is not None],
            eval=losses("eval"),
            general=losses("general"),
        ),
        rates=[(one.step, r) for one in steps if (r := one.tokens_per_second) is not None],
        memory=[(one.step, float(one.memory_bytes)) for one in steps],
    )


class Evaluations:
    """The evaluations that a training has written so far. Each look reads what is new in the file,
    which may have many lines beside them."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._inode = self._read = 0
        self._found: list[Told] = []

    def so_far(self) -> list[Told]:
        try:
            file = self._path.open("rb")
        except FileNotFoundError:
            return []
        with file:
            state = os.fstat(file.fileno())
            if state.st_ino != self._inode or state.st_size < self._read:  # a training began
                self._inode, self._read, self._found = state.st_ino, 0, []
            file.seek(self._read)
            whole, newline, _ = file.read().rpartition(b"\n")
        self._read += len(whole) + len(newline)
        told = map(_told, _objects(line for line in whole.splitlines() if b'"evaluated"' in line))
        self._found += [one for one in told if one is not None and one.evaluated]
        return self._found


def thinned(curve: Sequence[tuple[int, float]], most: int) -> list[tuple[int, float]]:
    """At most so many points: each stands for as many in a row, with their mean, at the last one's
    step."""
    if len(curve) <= most:
        return list(curve)
    size = math.ceil(len(curve) / most)
    parts = [curve[start : start + size] for start in range(0, len(curve), size)]
    return [(part[-1][0], sum(value for _, value in part) / len(part)) for part in parts]


def _told(row: dict[str, Any]) -> Told | None:
    try:
        return Told.model_validate(row)
    except ValidationError:
        return None


def _lines(path: Path) -> list[dict[str, Any]]:
    """The JSON objects in a file, one a line, as far as it is there."""
    try:
        return _objects(path.read_bytes().splitlines())
    except (FileNotFoundError, IsADirectoryError):
        return []


def _objects(lines: Iterable[bytes]) -> list[dict[str, Any]]:
    found = []
    for line in lines:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict):
            found.append(row)
    return found
