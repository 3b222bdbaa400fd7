"""Files for the readers that want one."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path


@cache
def scratch() -> Path:
    """A folder of this process's, in memory where there is such a file system."""
    shared = Path("/dev/shm")
    folder = Path(
        tempfile.mkdtemp(prefix="tuneserve-fuzz-", dir=shared if shared.is_dir() else None)
    )
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def written(name: str, data: bytes) -> Path:
    """The data in a file of that name."""
    path = scratch() / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path
