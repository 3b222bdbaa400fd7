"""What has to be there after a loss of power: files and folders given to the disk (fsync), and
folders exchanged in one step."""

from __future__ import annotations

import ctypes
import errno
import os
import time
from pathlib import Path

from tuneserve.errors import UsageError
from tuneserve.failpoints import is_armed, reached

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # fcntl.h, stdio.h of glibc
# A file system that has no such call says so in one of these ways.
_UNSUPPORTED = frozenset({errno.ENOSYS, errno.EINVAL, errno.ENOTSUP})


def sync_file(path: Path) -> None:
    """Return when the content of a file is on the disk."""
    _sync(path, os.O_RDONLY)


def sync_folder(path: Path) -> None:
    """Return when the names in a folder are on the disk; where its file system can't do that, at
    once."""
    try:
        _sync(path, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise


def sync_tree(path: Path) -> None:
    """The same for a file, or for a folder with all that is in it. Links are not followed."""
    if path.is_symlink():
        return
    if not path.is_dir():
        sync_file(path)
        return
    for inner in path.iterdir():
        sync_tree(inner)
    sync_folder(path)


def make_folder(path: Path, mode: int = 0o777) -> None:
    """Make a folder of this mode, with those above it, that stays."""
    if path.is_dir():
        return
    make_folder(path.parent)
    try:
        path.mkdir(mode, exist_ok=True)
    except FileExistsError as error:
        raise UsageError(
            "is no folder, and one is needed there",
            where=str(path),
            hint="Move it away; of a link, make the folder that it names.",
        ) from error
    sync_folder(path.parent)


def _sync(path: Path, flags: int) -> None:
    target = os.open(path, flags | os.O_CLOEXEC)
    try:
        reached("fsync", path)
        os.fsync(target)
        reached("synced", path)
    except OSError as error:
        error.filename = error.filename or str(path)
        raise
    finally:
        os.close(target)


class Appended:
    """A file to which lines are added, each of which survives a kill when `write` returns.

    A loss of power costs what was written in the last `seconds` at most; 0: nothing.
    """

    def __init__(self, path: Path, *, seconds: float) -> None:
        self._path, self._seconds = path, seconds
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self._file = os.open(path, flags, 0o666)
        self._unsynced_since: float | None = None
        if not os.fstat(self._file).st_size:
            sync_folder(path.parent)

    def write(self, line: bytes) -> None:
        """Add a line. Raises OSError; the file is then as before."""
        size = os.fstat(self._file).st_size
        try:
            self._write(line)
        except OSError as error:
            error.filename = error.filename or str(self._path)
            os.ftruncate(self._file, size)
            raise
        now = time.monotonic()
        if self._unsynced_since is None:
            self._unsynced_since = now
        if now - self._unsynced_since >= self._seconds:
            self.sync()

    def _write(self, line: bytes) -> None:
        if is_armed():  # half a line is what a kill may leave
            half = os.write(self._file, line[: len(line) // 2])
            reached("write", self._path)
            line = line[half:]
        while line:
            line = line[os.write(self._file, line) :]

    def sync(self) -> None:
        """Return when all that was written is on the disk."""
        if self._unsynced_since is not None:
            sync_file(self._path)
            self._unsynced_since = None

    def close(self) -> None:
        try:
            self.sync()
        finally:
            os.close(self._file)


def exchange(one: Path, other: Path) -> bool:
    """Let two names change places, in one step (Linux, renameat2). False where the system or the
    file system can't; raises OSError."""
    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if call is None:
        return False
    reached("rename", other)
    names = os.fsencode(one), os.fsencode(other)
    if call(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in _UNSUPPORTED:
        return False
    raise OSError(number, os.strerror(number), str(other))
