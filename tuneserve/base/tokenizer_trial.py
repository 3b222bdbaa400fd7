"""Does the tokenizers library read and use a tokenizer.json? Found out in a process of its own
(tokenizer_trial_child.py).

The library ends its process where memory is short and panics where it has not expected what a file
says, and a small file can make it write gigabytes.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

from tuneserve.base.tokenizer_trial_child import REFUSED, SECONDS
from tuneserve.child import own_module
from tuneserve.errors import UsageError

_HINT = "Download it again, or ask who made it."
_tried: set[tuple[int, ...]] = set()


def check_usable(path: Path) -> None:
    """Raise UsageError for a tokenizer.json with which the tokenizers library fails, panics, or
    takes too much time or memory. It is tried once in a process."""
    stat = path.stat()
    key = (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns)
    if key in _tried:
        return
    try:
        done = subprocess.run(
            own_module("tuneserve.base.tokenizer_trial_child", str(path)),
            stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
            check=False, timeout=2 * SECONDS,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
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
