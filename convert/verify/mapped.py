"""A large file that llama.cpp maps, kept from filling this process's memory.

The kernel counts every page of a mapped file that was touched as resident, and llama.cpp touches
them all when it loads. The pages are a copy of the file and can be dropped at any moment; they are
read again (mostly from the page cache) when they are needed.
"""

from __future__ import annotations

import ctypes
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MADV_DONTNEED = 4
PERIOD_SECONDS = 0.02
SMALL_BYTES = 256 * 1024 * 1024


@contextmanager
def small_resident_set(path: Path) -> Iterator[None]:
    """While this is open, pages of `path` leave this process's memory soon after they were used.

    Does nothing for a small file, or where there is no /proc.
    """
    if sys.platform != "linux" or path.stat().st_size < SMALL_BYTES:
        yield
        return
    done = threading.Event()
    target = str(path.resolve())

    def drop() -> None:
        while not done.wait(PERIOD_SECONDS):
            drop_pages(target)

    thread = threading.Thread(target=drop, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def drop_pages(target: str) -> None:
    """Drop the pages of every read-only mapping of the file `target`."""
    libc = ctypes.CDLL(None)
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    with Path("/proc/self/maps").open(encoding="utf-8") as lines:
        for line in lines:
            # 7f0000000000-7f0000100000 r--s 00000000 08:01 1234  /path
            fields = line.rstrip("\n").split(maxsplit=5)
            if len(fields) == 6 and fields[5] == target and fields[1].startswith("r--"):
                first, last = (int(part, 16) for part in fields[0].split("-"))
                libc.madvise(first, last - first, MADV_DONTNEED)
