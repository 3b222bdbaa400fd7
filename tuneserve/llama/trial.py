"""Is a GGUF one that llama.cpp loads and computes with? Found out before this process gives it to
llama.cpp, which ends its process where something in a file is not as it expects.

The file is read by tuneserve first (tuneserve.gguf.validation), then loaded and used once in a
process of its own (trial_child.py). What has passed is remembered in the cache.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from importlib.metadata import version
from pathlib import Path

from tuneserve.child import REFUSED, ended_child, own_module
from tuneserve.errors import TuneserveError, UsageError
from tuneserve.files import cache_directory
from tuneserve.gguf.parts import open_whole, part_paths
from tuneserve.gguf.reader import GGUFFile, check_is_gguf
from tuneserve.gguf.validation import check_model, not_working

# Part of what is remembered: raise it when more is checked than before.
_CHECKED = 3
_MOST_REMEMBERED = 1000
_FOLDER = "loadable"
_SECONDS = 120.0
_BYTES_PER_SECOND = 20 << 20
"""How slowly a disk may give the file's bytes in a trial."""

_HINT = "The file may be damaged or made for another llama.cpp; download or make it again."
# The trial is a CPU's: no memory of a GPU is taken for it.
_ENVIRONMENT = {
    "CUDA_VISIBLE_DEVICES": "",
    "HIP_VISIBLE_DEVICES": "",
    "GGML_VK_VISIBLE_DEVICES": "",
    "GGML_NO_BACKTRACE": "1",
}
_CAUSE = re.compile(r"(GGML_ASSERT\(.*|what\(\): .*|GGML_ABORT.*|fatal error.*)")

_loadable: set[str] = set()


def check_loadable(path: Path, *, weights: bool = True, checked: GGUFFile | None = None) -> None:
    """Raise UsageError if the GGUF can't be a working model, TuneserveError if llama.cpp can't load
    it or ends its process with it. It is tried once: a file that has passed is known by inode, size
    and time of its last change. `weights`: it is to have them; else it may be a vocabulary alone.
    `checked`: the same file, which `check_model` has passed already.
    """
    check_is_gguf(path)
    key = _key(path)
    if key in _loadable or (_remembered(key)).exists():
        _loadable.add(key)
        return
    file = checked or open_whole(path)
    if checked is None:
        check_model(file, weights=weights)
    _try(path, weights=bool(file.tensors))
    _remember(key)


def _remember(key: str) -> None:
    _loadable.add(key)
    folder = _remembered(key).parent
    # Where nothing can be written, it is tried again the next time.
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / key).touch()
        known = sorted(folder.iterdir(), key=lambda one: one.stat().st_mtime_ns)
        for old in known[:-_MOST_REMEMBERED]:
            old.unlink(missing_ok=True)


def _remembered(key: str) -> Path:
    return cache_directory() / _FOLDER / key


def _key(path: Path) -> str:
    """Of the file, all its parts, and the llama.cpp that it was tried with."""
    parts = [part.stat() for part in part_paths(path) if part.is_file()]
    told = [(part.st_dev, part.st_ino, part.st_size, part.st_mtime_ns) for part in parts]
    text = f"{_CHECKED} {version('llama-cpp-python')} {told}"
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _try(path: Path, *, weights: bool) -> None:
    size = sum(part.stat().st_size for part in part_paths(path))
    limit = _SECONDS + size / _BYTES_PER_SECOND
    arguments = [str(path), *([] if weights else [VOCABULARY])]
    command = own_module("tuneserve.llama.trial_child", *arguments)
    try:
        done = ended_child(command, seconds=limit, env=_ENVIRONMENT)
    except TimeoutError as error:
        raise TuneserveError(
            f"llama.cpp came to no end with it in {limit:.0f} seconds",
            where=str(path),
            hint=_HINT,
        ) from error
    if done.returncode == 0:
        return
    if done.returncode == REFUSED:
        raise TuneserveError(
            f"llama.cpp can't load it: {done.stdout.strip()}", where=str(path), hint=_HINT
        )
    if done.returncode == NOT_FINITE:
        raise not_working(path, done.stdout.splitlines())
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    causes = [match[1] for match in map(_CAUSE.search, lines) if match]
    raise UsageError(
        "llama.cpp ends its process with this file",
        where=str(path),
        problems=[line[:200] for line in (causes[:1] or lines[-1:])],
        hint=_HINT,
    )


VOCABULARY = "vocabulary"
"""The child's second argument where the file has no weights."""
NOT_FINITE = REFUSED + 1
"""The child's exit code where what is stored or computed is no finite number: a line for each."""
