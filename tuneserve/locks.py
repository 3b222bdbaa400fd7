"""Lock files: held by one process at a time, released when it ends, however it ends.

Never truncated or written to, and no link is followed: the name may be somebody else's file.
"""

from __future__ import annotations

import fcntl
import os
import shlex
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tuneserve.errors import TuneserveError

# Whoever only looks whether a lock is held has it for a moment (`holder`): that is waited for.
_LOOKED_AT_SECONDS = 0.2
_NEXT_TRY_SECONDS = 0.02


class HeldError(TuneserveError):
    """Another process holds the lock; `holder` says which, as far as the system tells."""

    def __init__(self, path: Path, holder: str) -> None:
        super().__init__(f"is in use by {holder}", where=str(path))
        self.holder = holder


@contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold the lock file `path` while the block runs; its folder is made. Without `wait` raises
    HeldError if another process holds it, TuneserveError if it is a link or a folder."""
    lock = hold(path, wait=wait)
    try:
        yield
    finally:
        os.close(lock)


def hold(path: Path, *, wait: bool) -> int:
    """The same without an end: the lock is held until the returned descriptor is closed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        lock = os.open(path, flags, 0o666)
    except OSError:
        check_lockable(path)
        raise
    try:
        _take(lock, wait=wait)
    except BlockingIOError:
        held_by = in_words(os.fstat(lock))
        os.close(lock)
        raise HeldError(path, held_by) from None
    except BaseException:
        os.close(lock)
        raise
    return lock


def check_lockable(path: Path) -> None:
    """Raise TuneserveError if something that can be no lock file lies in the place of one."""
    if path.is_symlink():
        what, hint = "a symbolic link", "Remove the link."
    elif path.is_dir():
        what, hint = "a folder", "Move it away."
    elif path.is_socket() or path.is_block_device():
        what, hint = "a socket or a device", "Remove it."
    else:
        return
    raise TuneserveError(f"is {what} where a lock file has to be", where=str(path), hint=hint)


def _take(lock: int, *, wait: bool) -> None:
    """Raises BlockingIOError if another process has the lock."""
    if wait:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return
    deadline = time.monotonic() + _LOOKED_AT_SECONDS
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise
            time.sleep(_NEXT_TRY_SECONDS)
        else:
            return


def holder(path: Path) -> str | None:
    """Who holds a lock file, in words; None if nobody does, or if it can't be read."""
    try:
        lock = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return in_words(os.fstat(lock))
    except OSError:
        return None
    finally:
        os.close(lock)
    return None


def process_holding(path: Path) -> int | None:
    """The process that is proved to hold a lock file: it has this very file open, and the kernel
    says of that descriptor that the lock is its own. None if none is, as where another user's
    process can't be looked at."""
    try:
        state = path.lstat()
    except OSError:
        return None
    rows = (row for row in _rows() if row[5].rpartition(":")[2] == str(state.st_ino))
    return next((int(row[4]) for row in rows if _is_proved(row[4], state)), None)


def _is_proved(number: str, state: os.stat_result) -> bool:
    try:
        for descriptor in Path(f"/proc/{number}/fd").iterdir():
            found = descriptor.stat()
            if (found.st_dev, found.st_ino) == (state.st_dev, state.st_ino):
                told = Path(f"/proc/{number}/fdinfo/{descriptor.name}").read_text().split()
                if "FLOCK" in told and "WRITE" in told:
                    return True
    except OSError:
        pass  # it has ended, has closed the file meanwhile, or is another user's
    return False


def _rows() -> list[list[str]]:
    """The locks that processes have by flock, as the kernel writes them:
    `1: FLOCK  ADVISORY  WRITE 13527 fe:00:3302146 0 EOF`."""
    try:
        rows = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
    except OSError:
        return []
    return [row for row in rows if len(row) > 5 and row[1] == "FLOCK"]


def command_of(number: int) -> list[str]:
    """What follows the program's name in the command of a tuneserve process; nothing for another
    program's, or where the process can't be looked at."""
    words = _command(number)
    # `python -m tuneserve train …` and `tuneserve train …`.
    names = (place for place, word in enumerate(words) if "tuneserve" in Path(word).name)
    after = words[next(names, len(words)) + 1 :]
    # A child's command names the folder of the package, which may have this name too, before it.
    return after[1:] if after[:1] == ["tuneserve"] else after


def _command(number: int) -> list[str]:
    try:
        command = Path(f"/proc/{number}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return []
    return [os.fsdecode(word) for word in command[:-1]]  # each ends with a zero


def in_words(state: os.stat_result) -> str:
    """Which process holds a file's lock, or is one of those that share it."""
    device = f"{os.major(state.st_dev):02x}:{os.minor(state.st_dev):02x}:{state.st_ino}"
    found = [row[4] for row in _rows() if row[5] == device]
    if not found:
        return "another process"
    after = command_of(int(found[0]))
    words = ["tuneserve", *after] if after else _command(int(found[0]))[:1]
    return f"process {found[0]} ({ascii(shlex.join(words))[1:-1][:80]})"
