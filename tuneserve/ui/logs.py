"""What lies in a run and is shown as it is: logs and pages. A run may come from elsewhere, so only
files that are in it are read, and no more of them than is shown."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from tuneserve.durable import make_folder
from tuneserve.errors import TuneserveError, UsageError
from tuneserve.foreign import check_own_folders
from tuneserve.run import RunDirectory
from tuneserve.visible import visible

TAIL = 64 << 10
"""Bytes of a log that are shown, from its end."""
LARGEST_PAGE = 256 << 20
_LAST_LINES = 8


@dataclass(frozen=True)
class Tail:
    """The end of a text file, what a terminal would obey as escapes; `left_out` bytes stand before
    it."""

    text: str
    left_out: int


def read_tail(path: Path, *, begin: int = 0) -> Tail:
    """The last TAIL bytes behind `begin`. Raises OSError."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        start = max(begin, size - TAIL)
        file.seek(start)
        # Where something is left out, the first line is only a part of one.
        text = file.read(TAIL).decode("utf-8", "replace")
    if start > begin:
        text = text.partition("\n")[2]
    return Tail(visible(text.replace("\r\n", "\n")), start)


def last_words(text: str) -> str:
    """What a command said at its end: its error as it is told, or else its last lines."""
    lines = text.splitlines()
    errors = [
        number for number, line in enumerate(lines) if line.startswith(("error: ", "Error: "))
    ]
    if errors:
        return "\n".join(lines[errors[-1] :])
    return "\n".join([line for line in lines if line.strip()][-_LAST_LINES:])


def opened_log(run: RunDirectory, name: str) -> tuple[Path, int]:
    """A log of the run, to add to, and a descriptor of it. Raises TuneserveError where it, or a
    folder of the run, is a link that leads elsewhere."""
    run.check_writable()
    make_folder(run.logs)
    check_own_folders(run.root)
    path = run.logs / f"{name}.log"
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        return path, os.open(path, flags, 0o666)
    except OSError as error:
        raise TuneserveError(f"can't be written: {error.strerror}", where=str(path)) from error


def log_names(run: RunDirectory) -> list[str]:
    """The stages that have a log, the one last written to first."""
    paths = [path for path in run.logs.glob("*.log") if path.is_file()]
    return [path.stem for path in sorted(paths, key=lambda path: -path.stat().st_mtime)]


def inside(run: RunDirectory, *parts: str) -> Path:
    """A file of a run. Raises UsageError where there is none, where it is too large for a page, or
    where a link leads out of the run."""
    path = run.root.joinpath(*parts)
    try:
        state = path.stat()
        is_inside = path.resolve().is_relative_to(run.root.resolve())
    except OSError as error:
        raise UsageError("there is no such file", where=str(path)) from error
    if not stat.S_ISREG(state.st_mode) or not is_inside:
        raise UsageError("is no file of this run", where=str(path))
    if state.st_size > LARGEST_PAGE:
        raise UsageError("is too large for a page", where=str(path), hint="Open it yourself.")
    return path
