"""Files that a user names for a command to write beside its result: what is theirs stays."""

from __future__ import annotations

from pathlib import Path

from tuneserve.errors import UsageError
from tuneserve.files import is_special, write_text


def check_output(path: Path, begin: str) -> None:
    """Raise UsageError if `path` is a directory, a disk or a file that doesn't begin as the
    command's own do, with `begin`. An empty file is replaced, as an earlier output is; a pipe, a
    terminal and /dev/null are written into."""
    if path.is_dir() or path.is_block_device() or path.is_socket():
        raise UsageError(
            "is no file, and a file is to be written", where=str(path), hint="Choose another name."
        )
    if path.is_file() and not is_special(path):
        with path.open("rb") as file:
            found = file.read(len(begin.encode()))
        if found and found != begin.encode():
            raise UsageError(
                "holds something else than an earlier output of this command, and is not replaced",
                where=str(path),
                hint="Move it away, or choose another name.",
            )


def write_output(path: Path, text: str, begin: str) -> None:
    """Write a text that starts with `begin`. Raises UsageError as `check_output` does."""
    check_output(path, begin)
    if is_special(path):
        with path.open("a", encoding="utf-8") as file:
            file.write(text)
    else:
        write_text(path, text)
