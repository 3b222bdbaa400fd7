"""How far a training is, in a file that others can read while it runs: runs/NAME/progress.jsonl.

One JSON object a line: the first tells the form, the others are a `Snapshot` each, after a step
(`loss` is then the mean since the line before), after an evaluation (`evaluated`) or within one
(`evaluating` says how far it is).
"""

from __future__ import annotations

import json
import math
import threading
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
# Longer than a line, which has a time of its own.
_COMPARED_BYTES = 1024
_MOST_AT_ONCE = 64 << 20  # bytes; what is longer is read piece by piece


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
    return ProgressReader(path).read()


class ProgressReader:
    """Reads the file of a training that may be at work: each look reads what is new. Threads may
    share one."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._forget()

    def _forget(self) -> None:
        self._place = 0
        self._behind = b""
        self._known: bool | None = None
        self._last: Told | None = None
        self._evaluations: list[Told] = []
        self._train: list[tuple[int, float]] = []
        self._rates: list[tuple[int, float]] = []
        self._memory: list[tuple[int, float]] = []

    def read(self) -> TrainingProgress | None:
        """All that the file tells so far, as `read_progress` does."""
        with self._lock:
            self._take_in()
            if self._last is None:
                return None
            return TrainingProgress(
                last=self._last,
                curves=LossCurves(
                    train=list(self._train), eval=self._losses("eval"),
                    general=self._losses("general"),
                ),
                rates=list(self._rates),
                memory=list(self._memory),
            )  # fmt: skip

    def evaluations(self) -> list[Told]:
        """The lines of the evaluations so far."""
        with self._lock:
            self._take_in()
            return list(self._evaluations)

    def _losses(self, name: str) -> list[tuple[int, float]]:
        return [(one.step, one.losses[name]) for one in self._evaluations if name in one.losses]

    def _take_in(self) -> None:
        try:
            file = self._path.open("rb")
        except (FileNotFoundError, IsADirectoryError):
            self._forget()
            return
        with file:
            # A training that begins, or goes on from a checkpoint, writes the file afresh: what
            # was read last is then not where it was.
            file.seek(self._place - len(self._behind))
            if file.read(len(self._behind)) != self._behind:
                self._forget()
                file.seek(0)
            whole, newline, _ = file.read(_MOST_AT_ONCE).rpartition(b"\n")
        new = whole + newline
        self._place += len(new)
        self._behind = (self._behind + new)[-_COMPARED_BYTES:]
        rows = _objects(new.splitlines())
        if rows and self._known is None:
            self._known = rows.pop(0).get("schema") == SCHEMA
        for one in map(_told, rows if self._known else ()):
            if one is not None:
                self._add(one)

    def _add(self, one: Told) -> None:
        self._last = one
        if one.evaluated:
            self._evaluations.append(one)
        elif not one.evaluating:
            if one.loss is not None:
                self._train.append((one.step, one.loss))
            if one.tokens_per_second is not None:
                self._rates.append((one.step, one.tokens_per_second))
            self._memory.append((one.step, float(one.memory_bytes)))


class ProgressReaders:
    """A reader for each of the files that were looked at last."""

    def __init__(self, most: int = 16) -> None:
        self._most = most
        self._readers: dict[Path, ProgressReader] = {}
        self._lock = threading.Lock()

    def read(self, path: Path) -> TrainingProgress | None:
        """What `read_progress` tells of a file, of which what is new is read."""
        with self._lock:
            reader = self._readers.pop(path, None) or ProgressReader(path)
            self._readers[path] = reader
            while len(self._readers) > self._most:
                del self._readers[next(iter(self._readers))]
        return reader.read()


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
