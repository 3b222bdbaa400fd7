"""The machine's main memory, and how much of it this process may have.

A container or a service may be limited to less than the machine has. The limit stands in its
control group (cgroups(7), version 2 or 1) or in one of its parents; the smallest limit counts. Swap
never counts: what only fits with it is too slow to train, convert or serve with.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tuneserve.errors import TuneserveError

GIB = 2**30
ON_LINUX = (
    "Training, conversion and serving run on Linux: in WSL on Windows, in a container or a virtual "
    "machine elsewhere (README, Where it runs)."
)


@dataclass(frozen=True)
class MainMemory:
    """Bytes: what the `machine` has, the `total` that this process may have of it, and what of
    that is `available`: free, or given up by the kernel on request."""

    machine: int
    total: int
    available: int


@dataclass(frozen=True)
class _GroupFiles:
    """What a version of cgroups calls its files, and in memory.stat the pages of files, which can
    be given up (those of tmpfs and shared memory can't, and aren't among them)."""

    mounts: tuple[str, ...]
    limits: tuple[str, ...]
    used: str
    given_up: tuple[str, ...]


_VERSION_1 = _GroupFiles(
    ("sys/fs/cgroup/memory",),
    ("memory.limit_in_bytes",),
    "memory.usage_in_bytes",
    ("total_active_file", "total_inactive_file"),
)
_VERSION_2 = _GroupFiles(
    ("sys/fs/cgroup", "sys/fs/cgroup/unified"),
    ("memory.max", "memory.high"),
    "memory.current",
    ("active_file", "inactive_file"),
)


def main_memory(root: Path = Path("/")) -> MainMemory:
    """The main memory as it is now. `root` is where proc and sys lie. Raises TuneserveError where
    there is none of them: the system is no Linux."""
    try:
        machine, free = _of_machine(root / "proc/meminfo")
    except FileNotFoundError as error:
        raise TuneserveError(
            "tells the memory on Linux, and is not here",
            where=str(root / "proc/meminfo"),
            hint=ON_LINUX,
        ) from error
    limits = [found for group in _groups(root) if (found := _limit_of(*group))]
    return MainMemory(
        machine,
        min([machine, *(limit for limit, _ in limits)]),
        max(0, min([free, *(left for _, left in limits)])),
    )


def _of_machine(meminfo: Path) -> tuple[int, int]:
    """MemTotal and MemAvailable (proc(5)), in bytes."""
    fields = dict(line.split(":") for line in meminfo.read_text(encoding="ascii").splitlines())
    total, free = (int(fields[key].split()[0]) * 1024 for key in ("MemTotal", "MemAvailable"))
    return total, free


def _groups(root: Path) -> Iterator[tuple[Path, _GroupFiles]]:
    """The directories of the control groups that this process is in, outer ones included."""
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return  # this kernel has no control groups
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        files = _VERSION_1 if controllers else _VERSION_2
        for name in files.mounts:
            mount = root / name
            group = mount / path.lstrip("/")
            # A container may be shown its group's path on the host, where that is not mounted:
            # then the group is what is mounted.
            if ".." in path or not group.is_dir():
                group = mount
            while True:
                yield group, files
                if group == mount:
                    break
                group = group.parent


def _limit_of(group: Path, files: _GroupFiles) -> tuple[int, int] | None:
    """A group's limit and what is left of it, in bytes; None without a limit."""
    limits = [limit for name in files.limits if (limit := _number(group / name)) is not None]
    if not limits:
        return None
    used = _number(group / files.used) or 0
    try:
        lines = (group / "memory.stat").read_text(encoding="ascii").splitlines()
    except OSError:
        lines = []
    pages = dict(line.split() for line in lines)
    given_up = sum(int(pages.get(key, 0)) for key in files.given_up)
    return min(limits), min(limits) - used + given_up


def _number(path: Path) -> int | None:
    """The number in a file; None for 'max', or without the file."""
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
