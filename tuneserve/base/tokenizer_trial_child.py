"""Reads a tokenizer.json and uses it: `python -m tuneserve.base.tokenizer_trial_child FILE`. What
fails is written to stdout.
"""

from __future__ import annotations

import sys
from pathlib import Path

from tuneserve.child import REFUSED
from tuneserve.errors import rust_failure

TEXTS = (
    "a", "Hello, world!\n", " 1 + 1 = 2\t", "", bytes(range(32, 127)).decode(),
    "naïve ÀÉÎ 你好 🙂\u200d👧 \x00\x01\x7f\ufffd\u0301\u200b",
    "  \r\n\n  the quick brown fox " * 20,
)  # fmt: skip


def _main(path: Path) -> int:
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
