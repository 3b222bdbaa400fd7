"""Lock files: held by one process at a time, released when it ends, however it ends.

Never truncated or written to, and no link is followed: the name may be somebody else's file.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tuneserve.errors import TuneserveError


class HeldError(TuneserveError):
    """Another process holds the lock; `holder` says which, as far as the system tells."""

    def __init__(self, path: Path, holder: str) -> None:
        super().__init__(f"is in use by {holder}", where=str(path))
        self.holder = holder


@contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold the lock file `path` while the block runs; its folder is made. Without `wait` raises
    HeldError if another process holds it, TuneserveError if it is a link."""
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
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise TuneserveError(
            "is a symbolic link where a lock file has to be",
            where=str(path),
            hint="Remove the link.",
        ) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        holder = _holder(lock)
        os.close(lock)
        raise HeldError(path, holder) from None
    except BaseException:
        os.close(lock)
        raise
    return lock


def _holder(lock: int) -> str:
    """Which process holds a file's lock, in words."""
    state = os.fstat(lock)
    device = f"{os.major(state.st_dev):02x}:{os.minor(state.st_dev):02x}:{state.st_ino}"
    try:
        # 1: FLOCK  ADVISORY  WRITE 13527 fe:00:3302146 0 EOF
        rows = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
        number = next(row[4] for row in rows if "->" not in row and row[5] == device)
        command = Path(f"/proc/{int(number)}/cmdline").read_bytes().split(b"\0")
    except (OSError, StopIteration, ValueError, IndexError):
        return "another process"
    words = [os.fsdecode(word) for word in command if word]
    # `python -m tuneserve train …` and `tuneserve train …`: what follows the program's name.
    names = [place for place, word in enumerate(words) if "tuneserve" in Path(word).name]
    shown = " ".join(["tuneserve", *words[names[0] + 1 :]]) if names else " ".join(words[:1])
    return f"process {number} ({ascii(shown)[1:-1][:80]})"
