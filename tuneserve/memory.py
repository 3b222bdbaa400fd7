"""The machine's main memory."""

from __future__ import annotations

from pathlib import Path


def free_main_memory() -> int:
    """Bytes that may still be taken without swapping (MemAvailable: proc(5))."""
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    kilobytes = next(line.split()[1] for line in lines if line.startswith("MemAvailable"))
    return int(kilobytes) * 1024
