"""Batches on disk: the state of each, and the lines that are done.

A finished line is appended and synced before anything else is told of it; a line that a killed
process has half written is cut when the file is opened again, and that request is done again.
"""

from __future__ import annotations

import contextlib
import copy
import json
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NotRequired, cast, get_args

from tuneserve.console import say
from tuneserve.durable import Appended, make_folder
from tuneserve.files import clear_leftovers
from tuneserve.serve.api.batches.files import FileStore, new_id, read_state, write_state
from tuneserve.serve.api.batches.types import (
    ENDED,
    BatchObject,
    BatchRequest,
    RequestCounts,
    Status,
)
from tuneserve.serve.api.batches.usage import add_usage, no_usage
from tuneserve.serve.api.errors import ApiError

WINDOW_SECONDS = 24 * 3600
MOST_BATCHES = 1000
MOST_UNFINISHED = 64
_ID = re.compile(r"batch_[0-9a-f]{24}")


class StoredBatch(BatchObject):
    """A batch on disk: also whose it is, when it was made (ns), the ids that its files get, and
    how it ends once it is finalized."""

    owner: NotRequired[str]
    made: NotRequired[int]
    output_id: NotRequired[str]
    error_id: NotRequired[str]
    outcome: NotRequired[Status]


class StorageFullError(Exception):
    """The answers of a batch have no more room."""


class Results:
    """The finished lines of one batch: answers in one file, errors in another."""

    def __init__(
        self, output: Path, errors: Path, files: FileStore, tally: Counter[bool] | None = None
    ) -> None:
        """Reads what is there, and cuts what is half written. `tally` counts the lines that are
        written from now on, by whether they failed."""
        self._paths = {False: output, True: errors}
        self._tally = Counter[bool]() if tally is None else tally
        self._files = files
        self._lock = threading.Lock()
        self._bytes = 0
        self._usage = no_usage()
        self._models: set[str] = set()
        self.done: set[str] = set()
        self.completed = self.failed = 0
        for failed, path in self._paths.items():
            for line in _whole_lines(path):
                self._count(line, failed=failed)
            self._bytes += path.stat().st_size

    def _count(self, line: Mapping[str, Any], *, failed: bool) -> None:
        self.done.add(line["custom_id"])
        self.failed += failed
        self.completed += not failed
        response = line.get("response")
        answer = response.get("body") if isinstance(response, dict) else None
        if not failed and isinstance(answer, dict):
            add_usage(self._usage, answer)
            self._models.add(str(answer.get("model", "")))

    def tell(self, batch: BatchObject) -> None:
        """Bring what a batch says of its finished lines up to date."""
        with self._lock:
            batch["request_counts"]["completed"] = self.completed
            batch["request_counts"]["failed"] = self.failed
            batch["usage"] = copy.deepcopy(self._usage)
            batch["model"] = (next(iter(self._models)) or None) if len(self._models) == 1 else None

    def append(self, line: dict[str, Any], *, failed: bool) -> None:
        """Keep a finished line. Raises StorageFullError, OSError."""
        data = json.dumps(line).encode() + b"\n"
        with self._lock:
            if line["custom_id"] in self.done:
                return
            if self._files.used_bytes + self._bytes + len(data) > self._files.most_bytes:
                raise StorageFullError
            with contextlib.closing(Appended(self._paths[failed], seconds=0)) as file:
                file.write(data)
            self._bytes += len(data)
            self._count(line, failed=failed)
            self._tally[failed] += 1


def _whole_lines(path: Path) -> Iterator[dict[str, Any]]:
    """A file's lines; from the first that is damaged on, the file is cut."""
    with path.open("a+b") as file:
        file.seek(0)
        good = 0
        for line in file:
            try:
                if not line.endswith(b"\n"):
                    break
                value: dict[str, Any] = json.loads(line)
                value["custom_id"] = str(value["custom_id"])
            except (ValueError, KeyError, TypeError):
                break
            good += len(line)
            yield value
        file.truncate(good)


_LATER = {"model": None, "usage": None}
"""Keys that batches of former releases have not."""


def _read_batch(path: Path) -> dict[str, Any] | None:
    read = read_state(path, BatchObject.__annotations__.keys() - _LATER.keys())
    return None if read is None else {**_LATER, **read}


class BatchStore:
    """The batches in a directory. Safe from any thread."""

    def __init__(self, files: FileStore) -> None:
        self.files = files
        self._directory = files.directory / "batches"
        make_folder(self._directory)
        clear_leftovers(self._directory)
        self._lock = threading.RLock()
        self._tally: Counter[bool] = Counter()
        paths = self._directory.glob("batch_*.json")
        read = [cast(StoredBatch, one) for one in map(_read_batch, paths) if one is not None]
        self._batches = {one["id"]: one for one in sorted(read, key=lambda one: one.get("made", 0))}
        for batch in self._batches.values():
            if batch["status"] in ENDED:
                self._remove_results(batch)

    def create(self, owner: str, request: BatchRequest) -> StoredBatch:
        """A new batch, not validated yet. Raises ApiError if there are too many."""
        with self._lock:
            if len(self.unfinished()) >= MOST_UNFINISHED:
                raise ApiError(
                    429,
                    f"{MOST_UNFINISHED} batches are waiting already.",
                    code="too_many_batches",
                    headers={"Retry-After": "60"},
                )
            self._forget_oldest()
            now = int(time.time())
            batch = StoredBatch(
                id=new_id("batch_"),
                object="batch",
                endpoint=request.endpoint,
                errors=None,
                input_file_id=request.input_file_id,
                completion_window=request.completion_window,
                status="validating",
                output_file_id=None,
                error_file_id=None,
                created_at=now,
                in_progress_at=None,
                expires_at=now + WINDOW_SECONDS,
                finalizing_at=None,
                completed_at=None,
                failed_at=None,
                expired_at=None,
                cancelling_at=None,
                cancelled_at=None,
                request_counts=RequestCounts(total=0, completed=0, failed=0),
                metadata=request.metadata,
                model=None,
                usage=None,
                owner=owner,
                made=time.time_ns(),
                output_id=new_id("file-"),
                error_id=new_id("file-"),
            )
            self._write(batch)
            self._batches[batch["id"]] = batch
            return batch

    def _forget_oldest(self) -> None:
        """Make room for one more; files are not touched."""
        ended = [one["id"] for one in self._batches.values() if one["status"] in ENDED]
        for batch_id in ended[: max(0, len(self._batches) + 1 - MOST_BATCHES)]:
            say(f"{batch_id} is forgotten: more than {MOST_BATCHES} batches are kept")
            self._path(batch_id).unlink(missing_ok=True)
            del self._batches[batch_id]

    def unfinished(self) -> list[StoredBatch]:
        """The batches that have not ended, the oldest first."""
        with self._lock:
            return [one for one in self._batches.values() if one["status"] not in ENDED]

    def by_status(self) -> dict[str, int]:
        """How many batches there are in each status."""
        with self._lock:
            found = Counter(one["status"] for one in self._batches.values())
        return {status: found[status] for status in get_args(Status)}

    @property
    def lines_written(self) -> dict[str, int]:
        """Lines since the process began: answered (completed), or not (failed)."""
        return {"completed": self._tally[False], "failed": self._tally[True]}

    def get(self, owner: str, batch_id: str) -> StoredBatch:
        """Raises ApiError if there is none of this owner's."""
        with self._lock:
            batch = self._batches.get(batch_id) if _ID.fullmatch(batch_id) else None
        if batch is None or batch.get("owner") != owner:
            raise ApiError(404, f"There is no batch '{batch_id[:64]}'.", code="batch_not_found")
        return batch

    def of(self, owner: str) -> list[BatchObject]:
        """An owner's batches, the newest first."""
        with self._lock:
            mine = [one for one in self._batches.values() if one.get("owner") == owner]
        return [shown(one) for one in reversed(mine)]

    def reads(self, file_id: str) -> bool:
        """Does a batch that has not ended read this file?"""
        return any(one["input_file_id"] == file_id for one in self.unfinished())

    def enter(self, batch: StoredBatch, status: Status) -> None:
        """A batch has this status from now on. Raises OSError; then nothing has changed."""
        with self._lock:
            changed = cast(StoredBatch, {**batch, "status": status})
            if status != "validating":
                changed[f"{status}_at"] = int(time.time())  # type: ignore[literal-required]
            self._write(changed)
            batch.update(changed)

    def begin(self, batch: StoredBatch) -> None:
        """A batch is in progress, unless it was already, or was cancelled meanwhile."""
        with self._lock:
            if batch["status"] == "validating":
                self.enter(batch, "in_progress")

    def results(self, batch: StoredBatch) -> Results:
        """The finished lines of a batch. One opens them at a time."""
        return Results(*self._result_paths(batch), self.files, self._tally)

    def finish(self, batch: StoredBatch, results: Results, outcome: Status) -> None:
        """Make files of the lines and end the batch; done again after a kill on the way, it has the
        same effect."""
        batch["outcome"] = outcome
        if batch["status"] != "cancelling":
            self.enter(batch, "finalizing")
        output, errors = self._result_paths(batch)
        owner, output_id, error_id = (batch[key] for key in ("owner", "output_id", "error_id"))
        if results.completed:
            self.files.adopt(owner, output_id, f"{batch['id']}_output.jsonl", output)
            batch["output_file_id"] = output_id
        if results.failed:
            self.files.adopt(owner, error_id, f"{batch['id']}_error.jsonl", errors)
            batch["error_file_id"] = error_id
        self.enter(batch, outcome)
        self._remove_results(batch)

    def _remove_results(self, batch: StoredBatch) -> None:
        """They are files by now."""
        for path in self._result_paths(batch):
            path.unlink(missing_ok=True)

    def _result_paths(self, batch: StoredBatch) -> tuple[Path, Path]:
        return tuple(  # type: ignore[return-value]
            self._directory / f"{batch['id']}.{kind}.jsonl" for kind in ("output", "errors")
        )

    def _path(self, batch_id: str) -> Path:
        return self._directory / f"{batch_id}.json"

    def _write(self, batch: StoredBatch) -> None:
        write_state(self._path(batch["id"]), batch)


def shown(batch: StoredBatch) -> BatchObject:
    """What a client sees of it."""
    known = BatchObject.__annotations__
    return cast(BatchObject, {key: value for key, value in batch.items() if key in known})
