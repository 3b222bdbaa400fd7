"""Is there disk and memory enough? Asked before any slow work starts."""

from __future__ import annotations

import shutil
from pathlib import Path

from tuneserve.console import human_bytes
from tuneserve.convert.gguf.writer import SLAB_VALUES
from tuneserve.convert.verify.verify import LOGIT_BYTES
from tuneserve.errors import TuneserveError
from tuneserve.memory import free_main_memory

SPARE_DISK = 256 * 1024 * 1024
# Python with PyTorch, transformers, PEFT and llama.cpp, and llama.cpp's caches and buffers.
LIBRARIES = 1300 * 1024 * 1024
# Of each thread a slab of rows on its way (as read, float32, its low-rank change, float16, float32,
# quantized: 19 bytes a value) and what malloc keeps for the next one. So 1.9 GiB are asked for with
# two threads, 2.8 with 16; measured were 1.33 (a model of 1.5 B) and 2.79 (8 B).
BYTES_PER_VALUE = 32


def needed_memory(threads: int) -> int:
    """Bytes of memory that a conversion takes at its peak, however large the model is."""
    return LIBRARIES + LOGIT_BYTES + threads * SLAB_VALUES * BYTES_PER_VALUE


def check_memory(threads: int) -> None:
    """Raise TuneserveError if less memory is free than a conversion takes."""
    needed, free = needed_memory(threads), available_memory()
    if free < needed:
        raise TuneserveError(
            f"{human_bytes(needed)} of memory are needed, {human_bytes(free)} are free",
            where="memory",
            hint="Close other programs, or take fewer threads: --threads 4.",
        )


def check_disk(folder: Path, needed: int) -> None:
    """Raise TuneserveError if `needed` bytes and a little more do not fit on `folder`'s disk."""
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if free < needed + SPARE_DISK:
        raise TuneserveError(
            f"{human_bytes(needed + SPARE_DISK)} of disk are needed, {human_bytes(free)} are free",
            where=str(folder),
        )


def available_memory() -> int:
    """Bytes that may still be taken: of the machine, or of this process's control group."""
    return min(free_main_memory(), _left_in_group())


def _left_in_group(root: Path = Path("/sys/fs/cgroup")) -> int:
    """What the control group's limit leaves; its file cache can be given up."""
    unlimited = 1 << 62
    try:
        limit = (root / "memory.max").read_text(encoding="ascii").strip()
        used = int((root / "memory.current").read_text(encoding="ascii"))
        fields = dict(
            line.split() for line in (root / "memory.stat").read_text(encoding="ascii").splitlines()
        )
    except (OSError, ValueError):
        return unlimited  # no such control group here
    return unlimited if limit == "max" else int(limit) - used + int(fields.get("file", 0))
