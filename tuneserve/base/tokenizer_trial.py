"""Does the tokenizers library read and use a tokenizer.json? Found out in a process of its own:
`python -m tuneserve.base.tokenizer_trial FILE`.

The library ends its process where memory is short and panics where it has not expected what a file
says, and a small file can make it write gigabytes.
"""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

from tuneserve.child import own_module
from tuneserve.errors import UsageError, rust_failure

TEXTS = (
    "a", "Hello, world!\n", " 1 + 1 = 2\t", "", bytes(range(32, 127)).decode(),
    "naïve ÀÉÎ 你好 🙂\u200d👧 \x00\x01\x7f\ufffd\u0301\u200b",
    "  \r\n\n  the quick brown fox " * 20,
)  # fmt: skip
MEMORY_BYTES = 2 << 30
MEMORY_PER_BYTE = 64
"""Of address space, for the library and for each byte of the file. One of 33 MB takes 0.7 GB."""
SECONDS = 60
_REFUSED = 3
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
            own_module("tuneserve.base.tokenizer_trial", str(path)),
            stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
            check=False, timeout=2 * SECONDS,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise UsageError(
            f"the tokenizers library came to no end with it in {2 * SECONDS} seconds",
            where=str(path), hint=_HINT,
        ) from None  # fmt: skip
    if done.returncode:
        reason = done.stdout.strip() if done.returncode == _REFUSED else "it ends its process"
        raise UsageError(
            f"the tokenizers library can't use it: {reason[:200]}", where=str(path), hint=_HINT
        )
    _tried.add(key)


def _main(path: Path) -> int:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    most = MEMORY_BYTES + MEMORY_PER_BYTE * path.stat().st_size
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(path))
        for text in TEXTS:
            for add_special in (False, True):
                ids = tokenizer.encode(text, add_special_tokens=add_special).ids
                tokenizer.decode(ids, skip_special_tokens=not add_special)
    except BaseException as error:
        print(rust_failure(error) or f"{type(error).__name__}: {error}")
        return _REFUSED
    return 0


if __name__ == "__main__":
    sys.exit(_main(Path(sys.argv[1])))
