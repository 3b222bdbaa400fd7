"""Reads a tokenizer.json and uses it, in bounds of memory and time:
`python -m tuneserve.base.tokenizer_trial_child FILE`. What fails is written to stdout.
"""

from __future__ import annotations

import os
import resource
import sys
from pathlib import Path

from tuneserve.errors import rust_failure

TEXTS = (
    "a", "Hello, world!\n", " 1 + 1 = 2\t", "", bytes(range(32, 127)).decode(),
    "naïve ÀÉÎ 你好 🙂\u200d👧 \x00\x01\x7f\ufffd\u0301\u200b",
    "  \r\n\n  the quick brown fox " * 20,
)  # fmt: skip
MEMORY_BYTES = 2 << 30
MEMORY_PER_BYTE = 64
"""Of address space, for the library and for each byte of the file. One of 33 MB takes 0.7 GB."""
SECONDS = 60
REFUSED = 3


def _main(path: Path) -> int:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    most = MEMORY_BYTES + MEMORY_PER_BYTE * path.stat().st_size
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    # Address space for one thread's memory, however many cores there are.
    os.environ["RAYON_NUM_THREADS"] = "1"
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(path))
        for text in TEXTS:
            for add_special in (False, True):
                ids = tokenizer.encode(text, add_special_tokens=add_special).ids
                tokenizer.decode(ids, skip_special_tokens=not add_special)
    except BaseException as error:
        print(rust_failure(error) or f"{type(error).__name__}: {error}")
        return REFUSED
    return 0


if __name__ == "__main__":
    sys.exit(_main(Path(sys.argv[1])))
