"""What a process uses of the cache, so that no other one removes it meanwhile.

A lock on the file or folder itself, shared by all who use it: it is there from before a run is
recorded to the end of the process, however that comes.
"""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tuneserve.locks import HeldError, in_words

_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK  # a pipe is not waited for
_used: dict[Path, int] = {}
_changing = threading.Lock()


def use(path: Path) -> bool:
    """Have a file or folder of the cache stay until this process ends. False if it is not there;
    one that is being removed is waited for."""
    path = path.absolute()
    try:
        descriptor = os.open(path, _FLAGS)
    except FileNotFoundError:
        return False
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    with _changing:
        former = _used.get(path)
        if not _is_at(path, descriptor) or (former is not None and _is_at(path, former)):
            os.close(descriptor)
            return former is not None and _is_at(path, former)
        _used[path] = descriptor
        if former is not None:  # another one is in its place
            os.close(former)
    return True


def user_of(path: Path) -> str | None:
    """A process that uses a file or folder of the cache, in words; None if none does."""
    try:
        with unused(path):
            return None
    except HeldError as error:
        return error.holder
    except OSError:
        return None


@contextmanager
def unused(path: Path) -> Iterator[None]:
    """Have nobody begin to use what lies there while the block runs. Raises HeldError if a process
    uses it, OSError if it can't be opened."""
    descriptor = os.open(path, _FLAGS)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise HeldError(path, in_words(os.fstat(descriptor))) from None
        yield
    finally:
        os.close(descriptor)


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False
