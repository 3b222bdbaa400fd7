"""Which files a training read and wrote, by SHA-256: what is converted and benchmarked is what was
trained, or the difference is named."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tuneserve.errors import TuneserveError
from tuneserve.files import sha256_file
from tuneserve.safetensors import weight_files

Hashes = dict[str, str]


def base_files(checkpoint: Path) -> list[Path]:
    """What a merge reads of a base: its weights, as transformers finds them, and config.json."""
    return [checkpoint / "config.json", *weight_files(checkpoint)]


def hashes_of(paths: Iterable[Path], root: Path) -> Hashes:
    """SHA-256 of each file by its path below `root`; files are read side by side, which takes
    about a second for each GiB of the largest one."""
    found = sorted(paths)
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        digests = list(pool.map(sha256_file, found))
    names = (path.relative_to(root).as_posix() for path in found)
    return dict(zip(names, digests, strict=True))


def check_unchanged(recorded: Mapping[str, str], root: Path, *, what: str, hint: str) -> None:
    """Raise TuneserveError naming the recorded files below `root` that are gone or hold others.

    `what` they are stands in the error: 'the adapter', 'the base'.
    """
    paths = {name: root / name for name in recorded}
    found = hashes_of((path for path in paths.values() if path.is_file()), root)
    problems = [
        f"{path}: " + ("changed" if name in found else "missing")
        for name, path in paths.items()
        if found.get(name) != recorded[name]
    ]
    if problems:
        raise TuneserveError(
            f"{what} is not as training left it", where=str(root), problems=problems, hint=hint
        )
