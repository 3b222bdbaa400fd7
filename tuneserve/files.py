"""Files that are whole or absent: written under a temporary name, then renamed."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PARTIAL_SUFFIX = ".partial"


@contextmanager
def atomic_path(final: Path) -> Iterator[Path]:
    """Yield a temporary path beside `final`; rename it to `final` if the block succeeds.

    Works for files and directories. On any exception the temporary is removed and `final` is left
    as it was. A leftover of an earlier, killed process is cleared first.
    """
    final.parent.mkdir(parents=True, exist_ok=True)
    temporary = final.with_name(final.name + PARTIAL_SUFFIX)
    remove(temporary)
    try:
        yield temporary
        replace(temporary, final)
    except BaseException:
        remove(temporary)
        raise


def replace(source: Path, target: Path) -> None:
    """Rename `source` to `target`, replacing what is there (a directory too)."""
    if target.is_dir():
        # A non-empty directory can't be renamed over; move the old one aside first so that
        # a crash in between loses neither.
        old = target.with_name(target.name + ".old")
        remove(old)
        target.rename(old)
        source.rename(target)
        remove(old)
    else:
        source.replace(target)


def remove(path: Path) -> None:
    """Delete a file or a directory tree if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write `text` (UTF-8) so that a reader sees the old file or the new one, never a part."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_jsonl(path: Path, rows: Iterator[Any] | list[Any]) -> None:
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's content, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def cache_directory() -> Path:
    """Where downloads and imported base models are kept: $TUNESERVE_CACHE, or the XDG cache."""
    if chosen := os.environ.get("TUNESERVE_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tuneserve"
