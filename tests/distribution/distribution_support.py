"""Building distributions."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

STAGES = ("finetune", "convert", "serve", "bench")


def build(kind: str, source: Path, target: Path) -> Path:
    """`kind` 'wheel' or 'sdist' of a source tree, by the build backend; returns the file."""
    code = (
        "import sys, setuptools.build_meta as backend\n"
        f"print('BUILT', backend.build_{kind}(sys.argv[1]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(target)],
        cwd=source, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return target / done.stdout.rsplit("BUILT ", 1)[1].strip()
