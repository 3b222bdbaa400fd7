"""Files of the batch API: a JSONL and its description beside it, each readable only with the API
key that it was uploaded with."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import threading
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Literal, NotRequired, TypeVar, cast

from tuneserve.console import human_bytes, say
from tuneserve.durable import make_folder, sync_folder
from tuneserve.errors import UsageError
from tuneserve.files import atomic_path, clear_leftovers, read_json
from tuneserve.locks import HeldError, hold
from tuneserve.serve.api.batches.types import FileObject
from tuneserve.serve.api.errors import ApiError

Purpose = Literal["batch", "batch_output"]

MOST_FILES = 10_000
_ID = re.compile(r"file-[0-9a-f]{24}")
_CHUNK = 1 << 20

Listed = TypeVar("Listed", bound=Mapping[str, Any])


class StoredFile(FileObject):
    """A file's description on disk: also whose it is, and when it was made in ns."""

    owner: NotRequired[str]
    made: NotRequired[int]


def new_id(prefix: str) -> str:
    return prefix + secrets.token_hex(12)


def write_state(path: Path, value: Mapping[str, Any]) -> None:
    """Write JSON that is there whole after a kill, or a loss of power."""
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        json.dump(value, file)


def read_state(path: Path, keys: Collection[str]) -> dict[str, Any] | None:
    """What `write_state` wrote. A file that something else has damaged is told and left as it is:
    None."""
    try:
        value = read_json(path)
    except UsageError as error:
        say(f"warning: left aside: {error.where}: {error.message}")
        return None
    if missing := sorted(set(keys) - value.keys()):
        say(f"warning: left aside: {path}: has no {', '.join(missing)}")
        return None
    if value["id"] != path.stem:
        say(f"warning: left aside: {path}: describes {value['id']}")
        return None
    return value


@contextmanager
def told_of_the_disk() -> Iterator[None]:
    """Raises ApiError where something can't be written."""
    try:
        yield
    except OSError as error:
        reason = f"The server can't write: {error.strerror}."
        raise ApiError(507, reason, code="storage_full") from error


def page(listed: Sequence[Listed], *, after: str | None, limit: int) -> tuple[list[Listed], bool]:
    """The part of a list behind the id `after`, and whether more follows. Raises ApiError."""
    start = 0
    if after is not None:
        ids = [one["id"] for one in listed]
        if after not in ids:
            message = f"There is nothing with the id '{after[:64]}'."
            raise ApiError(404, message, code="not_found", param="after")
        start = ids.index(after) + 1
    return list(listed[start : start + limit]), len(listed) > start + limit


class FileStore:
    """The files in a directory, which one process has at a time. Safe from any thread."""

    def __init__(self, directory: Path, *, most_bytes: int) -> None:
        """Raises UsageError if another process has the directory, or it can't be written."""
        self.directory = directory
        self.most_bytes = most_bytes
        self._files = directory / "files"
        self._lock = threading.RLock()
        try:
            make_folder(directory, 0o700)
            make_folder(self._files)
            self._process_lock = hold(directory / "lock", wait=False)
        except HeldError as error:
            raise UsageError(
                f"another server has its batches there: {error.holder}",
                where=str(directory),
                hint="Give each server a directory of its own.",
            ) from None
        except OSError as error:
            raise UsageError(f"can't be used: {error.strerror}", where=str(directory)) from error
        self._known = self._read()

    def close(self) -> None:
        """Let another process have the directory."""
        os.close(self._process_lock)

    def _read(self) -> dict[str, StoredFile]:
        """What is there; what a killed process has not finished is removed."""
        clear_leftovers(self._files)
        known: dict[str, StoredFile] = {}
        described = sorted(self._files.glob("file-*.json"))
        for path in described:
            stored = read_state(path, FileObject.__annotations__)
            if stored is not None and self.path(path.stem).is_file():
                known[path.stem] = cast(StoredFile, stored)
        for path in self._files.glob("file-*.jsonl"):
            if _ID.fullmatch(path.stem) and path.with_suffix(".json") not in described:
                path.unlink()
        return known

    @property
    def used_bytes(self) -> int:
        """Of all files that are kept."""
        with self._lock:
            return sum(file["bytes"] for file in self._known.values())

    @property
    def room(self) -> int:
        """Bytes that one more file may have."""
        return 0 if len(self._known) >= MOST_FILES else self.most_bytes - self.used_bytes

    def check_room(self, more: int) -> None:
        """Raises ApiError if so many more bytes don't fit into the room that there is."""
        if more > self.room:
            raise ApiError(
                413,
                f"Files may take {human_bytes(self.most_bytes)} in all; delete some.",
                code="storage_full",
                param="file",
            )

    def add(self, owner: str, name: str, source: BinaryIO, size: int) -> FileObject:
        """Keep the `size` bytes of an upload. Raises ApiError."""
        self.check_room(size)
        file_id = new_id("file-")
        path = self.path(file_id)
        with told_of_the_disk():
            with atomic_path(path) as temporary, temporary.open("wb") as target:
                shutil.copyfileobj(source, target, _CHUNK)
            return self.describe(owner, file_id, name, "batch")

    def adopt(self, owner: str, file_id: str, name: str, source: Path) -> None:
        """Make a file of a batch's output; `source` stays. Doing it again changes nothing."""
        if file_id in self._known:
            return
        try:
            os.link(source, self.path(file_id))
        except OSError:  # a file system without links
            with atomic_path(self.path(file_id)) as copy:
                shutil.copyfile(source, copy)
        sync_folder(self._files)
        self.describe(owner, file_id, name, "batch_output")

    def describe(self, owner: str, file_id: str, name: str, purpose: Purpose) -> FileObject:
        stored = StoredFile(
            id=file_id,
            object="file",
            bytes=self.path(file_id).stat().st_size,
            created_at=int(time.time()),
            expires_at=None,
            filename=name[:255],
            purpose=purpose,
            status="processed",
            owner=owner,
            made=time.time_ns(),
        )
        write_state(self._files / f"{file_id}.json", stored)
        with self._lock:
            self._known[file_id] = stored
        return _shown(stored)

    def path(self, file_id: str) -> Path:
        return self._files / f"{file_id}.jsonl"

    def get(self, owner: str, file_id: str, *, param: str | None = None) -> FileObject:
        """Raises ApiError if there is none of this owner's."""
        with self._lock:
            stored = self._known.get(file_id) if _ID.fullmatch(file_id) else None
        if stored is None or stored.get("owner") != owner:
            raise ApiError(
                404, f"There is no file '{file_id[:64]}'.", code="file_not_found", param=param
            )
        return _shown(stored)

    def of(self, owner: str) -> list[FileObject]:
        """An owner's files, the newest first."""
        with self._lock:
            mine = [one for one in self._known.values() if one.get("owner") == owner]
        mine.sort(key=lambda one: one.get("made", 0), reverse=True)
        return [_shown(one) for one in mine]

    def delete(self, owner: str, file_id: str) -> None:
        """Raises ApiError if there is none of this owner's."""
        self.get(owner, file_id)
        with self._lock:
            (self._files / f"{file_id}.json").unlink(missing_ok=True)
            self.path(file_id).unlink(missing_ok=True)
            self._known.pop(file_id, None)


def _shown(stored: StoredFile) -> FileObject:
    known = FileObject.__annotations__
    return cast(FileObject, {key: value for key, value in stored.items() if key in known})
