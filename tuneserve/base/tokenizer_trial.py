"""Does the tokenizers library read and use a tokenizer.json? Found out in a process of its own
(tokenizer_trial_child.py).

The library ends its process where memory is short and panics where it has not expected what a file
says, and a small file can make it write gigabytes.
"""

from __future__ import annotations

from pathlib import Path

from tuneserve.child import REFUSED, ended_child, own_module
from tuneserve.errors import UsageError

MEMORY_BYTES = 2 << 30
MEMORY_PER_BYTE = 64
"""Of address space, for the library and for each byte of the file. One of 33 MB takes 0.7 GB."""
SECONDS = 60
_HINT = "Download it again, or ask who made it."
_tried: set[tuple[int, ...]] = set()


def check_usable(path: Path) -> None:
    """Raise UsageError for a tokenizer.json with which the tokenizers library fails, panics, or
    takes too much time or memory. It is tried once in a process."""
    stat = path.stat()
    key = (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns)
    if key in _tried:
        return
    command = own_module(
        "tuneserve.base.tokenizer_trial_child", str(path), processor=SECONDS,
        memory=MEMORY_BYTES + MEMORY_PER_BYTE * stat.st_size,
    )  # fmt: skip
    try:
        # Address space for one thread's memory, however many cores there are.
        done = ended_child(command, seconds=2 * SECONDS, env={"RAYON_NUM_THREADS": "1"})
    except TimeoutError:
        raise UsageError(
            f"the tokenizers library came to no end with it in {2 * SECONDS} seconds",
            where=str(path), hint=_HINT,
        ) from None  # fmt: skip
    if done.returncode:
        reason = done.stdout.strip() if done.returncode == REFUSED else "it ends its process"
        raise UsageError(
            f"the tokenizers library can't use it: {reason[:200]}", where=str(path), hint=_HINT
        )
    _tried.add(key)
