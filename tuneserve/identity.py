"""Which files a training read and wrote, by SHA-256: what is converted and benchmarked is what was
trained, or the difference is named."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tuneserve.errors import TuneserveError
from tuneserve.files import cache_directory, sha256_file, write_json
from tuneserve.locks import locked
from tuneserve.safetensors import weight_files

Hashes = dict[str, str]
LARGE_BYTES = 64 << 20  # of a file that is not read again where its hash is known
_MOST_KNOWN = 1000
# A file that changes within the clock's resolution of the last change looks the same afterwards.
_SETTLED_NS = 2 * 10**9


def base_files(checkpoint: Path) -> list[Path]:
    """What a merge reads of a base: its weights, as transformers finds them, and config.json."""
    return [checkpoint / "config.json", *weight_files(checkpoint)]


def known_sha256(path: Path) -> str:
    """SHA-256 of a file's content, in hex. That of a large file is kept in the cache, and used
    while its size, its times of change and its inode are the same."""
    before = path.stat()
    if before.st_size < LARGE_BYTES:
        return sha256_file(path)
    name, state = f"{before.st_dev}:{before.st_ino}", _state(before)
    try:
        store = cache_directory() / "sha256.json"
    except TuneserveError:  # no home directory
        return sha256_file(path)
    known = _known_hashes(store).get(name)
    if isinstance(known, list) and known[:-1] == state:
        return str(known[-1])
    digest = sha256_file(path)
    age = time.time_ns() - max(before.st_mtime_ns, before.st_ctime_ns)
    if _state(path.stat()) == state and age > _SETTLED_NS:
        # Without a cache that can be written the file is read again, and nothing else is lost.
        with contextlib.suppress(OSError, TuneserveError), locked(store.with_suffix(".lock")):
            others = _known_hashes(store)
            others.pop(name, None)
            kept = dict(list(others.items())[1 - _MOST_KNOWN :])
            write_json(store, {**kept, name: [*state, digest]}, synced=False)
    return digest


def _state(found: os.stat_result) -> list[int]:
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns]


def _known_hashes(store: Path) -> dict[str, Any]:
    """What the cache holds; nothing if it is damaged."""
    try:
        known = json.loads(store.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return known if isinstance(known, dict) else {}


def hashes_of(paths: Iterable[Path], root: Path) -> Hashes:
    """SHA-256 of each file by its path below `root`; files are read side by side, which takes
    about a second for each GiB of the largest one that is not known (`known_sha256`)."""
    found = sorted(paths)
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        digests = list(pool.map(known_sha256, found))
    names = (path.relative_to(root).as_posix() for path in found)
    return dict(zip(names, digests, strict=True))


def changed_files(recorded: Mapping[str, str], root: Path) -> list[str]:
    """The recorded files below `root` that are gone or hold others, in words."""
    paths = {name: root / name for name in recorded}
    found = hashes_of((path for path in paths.values() if path.is_file()), root)
    return [
        f"{path}: " + ("changed" if name in found else "missing")
        for name, path in paths.items()
        if found.get(name) != recorded[name]
    ]


def check_unchanged(recorded: Mapping[str, str], root: Path, *, what: str, hint: str) -> None:
    """Raise TuneserveError naming the recorded files below `root` that are gone or hold others.

    `what` they are stands in the error: 'the adapter', 'the base'.
    """
    if problems := changed_files(recorded, root):
        raise TuneserveError(
            f"{what} is not as training left it", where=str(root), problems=problems, hint=hint
        )
