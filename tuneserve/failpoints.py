"""Points at which a process can be made to fail, for tests: killed, or told of a full disk.

    TUNESERVE_FAILPOINT=NAME[:N][=ACTION]

NAME is an operation on files: `open` (to write), `write` (half of a line is written), `fsync`
(before), `synced` (after), `rename`, `remove`, `mkdir`, `rmdir`, `link`, `truncate`, or `any`. The
N-th one (default: the first) is hit. ACTION is `kill` (SIGKILL, the default), `enospc` or `eio`.

    TUNESERVE_FAILPOINT_LOG=FILE    each point that is passed, a line each: NAME PATH
    TUNESERVE_FAILPOINT_IN=FOLDER   only files below this folder count

All that Python's own calls do to files is seen, those of libraries included (PEP 578); what is
named `write`, `fsync` and `synced` is passed by this package's code alone. It holds for the process
that is started with it, not for its children. Nothing is installed where neither variable is set.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

Hook = Callable[[str, str], None]
"""Gets each point, as (name, path), before the operation is made; may raise."""

VARIABLES = ("TUNESERVE_FAILPOINT", "TUNESERVE_FAILPOINT_LOG", "TUNESERVE_FAILPOINT_IN")
_ERRORS = {"enospc": errno.ENOSPC, "eio": errno.EIO}
# Operations by Python's audit events; the place of the path and of its directory's descriptor.
_EVENTS = {
    "os.rename": ("rename", 1, 3), "os.remove": ("remove", 0, 1), "os.mkdir": ("mkdir", 0, 2),
    "os.rmdir": ("rmdir", 0, 1), "os.link": ("link", 1, 3), "os.symlink": ("link", 1, 2),
    "os.truncate": ("truncate", 0, None),
}  # fmt: skip
_DEVICES = ("/proc/", "/sys/", "/dev/null", "/dev/fd/", "/dev/std", "/dev/pts/", "/dev/tty")
_TO_WRITE = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC

_hook: Hook | None = None


def reached(name: str, path: Path) -> None:
    """Pass a point."""
    if _hook is not None:
        _hook(name, str(path.absolute()))


def is_armed() -> bool:
    """Does anything look at the points?"""
    return _hook is not None


def arm(hook: Hook, within: str = "") -> None:
    """Let `hook` get each point from now on that concerns a file below `within`."""
    global _hook
    installed = _hook is not None

    def below(name: str, path: str) -> None:
        if path.startswith(within):
            hook(name, path)

    _hook = below
    if not installed:
        sys.addaudithook(_audit)


class Failure:
    """The hook that fails at the `count`-th point of a name."""

    def __init__(self, name: str, count: int, action: str) -> None:
        self.name, self.left, self.action = name, count, action

    @classmethod
    def read(cls, text: str) -> Failure:
        """NAME[:N][=ACTION]. Raises ValueError."""
        point, _, action = text.partition("=")
        name, _, count = point.partition(":")
        if action not in ("", "kill", *_ERRORS):
            raise ValueError(f"no such action: {action}")
        return cls(name, int(count or 1), action or "kill")

    def __call__(self, name: str, path: str) -> None:
        if self.name not in (name, "any"):
            return
        self.left -= 1
        if self.left:
            return
        if self.action == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        number = _ERRORS[self.action]
        raise OSError(number, os.strerror(number), path)


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open":
        path, _, flags = arguments
        if not isinstance(path, int) and path is not None and flags & _TO_WRITE:
            _pass("open", path, -1)
    elif event in _EVENTS:
        name, place, folder = _EVENTS[event]
        if not isinstance(arguments[place], int):
            _pass(name, arguments[place], -1 if folder is None else arguments[folder])


def _pass(name: str, path: str | bytes | os.PathLike[str], folder: int) -> None:
    if _hook is None:
        return
    place = Path(os.fsdecode(path))
    if folder >= 0:
        place = Path(f"/proc/self/fd/{folder}").readlink() / place
    text = str(place.absolute())
    if not text.startswith(_DEVICES) and "__pycache__" not in text:
        _hook(name, text)


def _from_environment() -> None:
    wanted, log, within = (os.environ.pop(name, "") for name in VARIABLES)
    if not wanted and not log:
        return
    failure = Failure.read(wanted) if wanted else None
    target = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600) if log else -1

    def hook(name: str, path: str) -> None:
        if target >= 0:
            os.write(target, f"{name} {path}\n".encode("utf-8", "surrogateescape"))
        if failure is not None:
            failure(name, path)

    arm(hook, within)


_from_environment()
