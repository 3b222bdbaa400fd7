"""Stages that are killed, refused by the disk or cut off from power at each of their failpoints,
and run again: the result has to be that of a stage that nothing happened to.

A trial runs in a fork of this process, which has imported what the stage needs: seconds for each of
hundreds of trials would be too long.
"""

from __future__ import annotations

import errno
import math
import os
import random
import re
import shutil
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tuneserve.errors import TuneserveError
from tuneserve.failpoints import Hook, arm

KILL, FULL, BROKEN = "kill", "disk full", "i/o error"
POWER, POWER_NAMES = "power cut", "power cut (names kept)"
WAYS = (KILL, FULL, BROKEN, POWER, POWER_NAMES)
EQUAL, RECOVERED, NOT = "equal", "recovered", "not"
_ERRORS = {FULL: errno.ENOSPC, BROKEN: errno.EIO}


@dataclass(frozen=True)
class Stage:
    """`prepare` makes a folder as it is before the stage, `work` is the stage, in that folder, and
    is what is run again; `forced` the way out where that is refused. `result` is what has to be
    equal."""

    name: str
    prepare: Callable[[Path], None]
    work: Callable[[], None]
    result: Callable[[Path], Any]
    forced: Callable[[], None] | None = None


@dataclass
class Found:
    """What came of the trials of a stage: outcomes by way, and what was not as it has to be."""

    points: list[str]
    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)


class Disk:
    """What would be left of a folder if the power went: files as they were when they were last
    synced, and names as they were when their folder was (POSIX promises no more). Of what was added
    to a file since, and of a file that never was, there are zeros."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._data: dict[int, bytes] = {}
        self._names: dict[int, dict[str, int]] = {}
        self._held: dict[int, int] = {}
        for folder, _, files in os.walk(root):
            self.synced(Path(folder))
            for name in files:
                self.synced(Path(folder, name))

    def synced(self, path: Path) -> None:
        inode = self._hold(path)
        if path.is_dir():
            inner = (entry for entry in path.iterdir() if not entry.is_symlink())
            self._names[inode] = {entry.name: self._hold(entry) for entry in inner}
        else:
            self._data[inode] = path.read_bytes()

    def _hold(self, path: Path) -> int:
        """The inode, which no other file gets as long as it is open."""
        inode = path.stat().st_ino
        if inode not in self._held:
            self._held[inode] = os.open(path, os.O_PATH)
        return inode

    def image(self, target: Path, *, names_kept: bool) -> None:
        """Write what is left to `target`; with `names_kept` the names are as they are now."""
        if names_kept:
            for folder, *_ in os.walk(self.root):
                self.synced(Path(folder))
        self._copy(self.root.stat().st_ino, target, {})

    def _copy(self, inode: int, target: Path, copied: dict[int, Path]) -> None:
        if inode in copied:
            os.link(copied[inode], target)
            return
        if Path(f"/proc/self/fd/{self._held[inode]}").is_dir():
            target.mkdir()
            for name, inner in self._names.get(inode, {}).items():
                self._copy(inner, target / name, copied)
            return
        size, kept = os.fstat(self._held[inode]).st_size, self._data.get(inode, b"")
        target.write_bytes(kept + bytes(max(size - len(kept), 0)))
        copied[inode] = target


class _At:
    """The hook that fails at the n-th point."""

    def __init__(self, number: int, way: str, disk: Disk | None, image: Path) -> None:
        self.left, self.way, self.disk, self.image = number, way, disk, image

    def __call__(self, name: str, path: str) -> None:
        if name == "synced" and self.disk is not None:
            self.disk.synced(Path(path))
        self.left -= 1
        if self.left:
            return
        if self.disk is not None:
            self.disk.image(self.image, names_kept=self.way == POWER_NAMES)
        if number := _ERRORS.get(self.way):
            raise OSError(number, os.strerror(number), path)
        os.kill(os.getpid(), signal.SIGKILL)


def points_of(stage: Stage, start: Path, scratch: Path) -> tuple[list[str], Any]:
    """The points that a stage passes, in order, and its result."""
    log = scratch / "points"
    with log.open("w") as file:

        def note(name: str, path: str) -> None:
            os.write(file.fileno(), f"{name} {path}\n".encode())

        work = _copied(start, scratch / "work")
        status, said = run_forked(stage.work, work, lambda: note, scratch / "log")
    assert status == 0, said
    root = str(scratch / "work")
    lines = [line.replace(root, "").strip() for line in log.read_text().splitlines()]
    found = [re.sub(r"tuneserve-\w+", "tuneserve-*", line) for line in lines]
    return found, stage.result(work)


def try_stage(
    stage: Stage,
    scratch: Path,
    ways: Iterable[str] = WAYS,
    every: int = 1,
    seconds: float = math.inf,
    told: Callable[[str], None] = lambda _: None,
) -> Found:
    """Fail the stage at every point (or every few), in all ways. Where there are but so many
    `seconds`, in as many trials as there is time for, drawn by chance."""
    start = scratch / "start"
    start.mkdir(parents=True)
    stage.prepare(start)
    names, expected = points_of(stage, start, scratch)
    found = Found(names)
    trials = [(number, way) for number in range(1, len(names) + 1, every) for way in ways]
    if seconds < math.inf:
        random.Random(0).shuffle(trials)
    began = time.monotonic()
    for number, way in trials:
        if time.monotonic() - began > seconds:
            break
        outcome, why = _trial(stage, start, scratch, number, way, expected)
        found.outcomes[way, outcome] += 1
        if outcome != EQUAL or why:
            problem = f"{stage.name}, {way} at {number} ({names[number - 1]}): {outcome}: {why}"
            found.problems.append(problem)
            told(problem)
    return found


def _trial(
    stage: Stage, start: Path, scratch: Path, number: int, way: str, expected: Any
) -> tuple[str, str]:
    work, image, log = _copied(start, scratch / "work"), scratch / "image", scratch / "log"
    shutil.rmtree(image, ignore_errors=True)

    def hook() -> Hook:
        disk = Disk(work) if way in (POWER, POWER_NAMES) else None
        return _At(number, way, disk, image)

    status, said = run_forked(stage.work, work, hook, log)
    # An error that the stage can do without leaves its result as it is.
    clean = status in ((0, 1, -signal.SIGKILL) if way in _ERRORS else (0, -signal.SIGKILL))
    why = "" if clean and "Traceback" not in said else f"status {status}: {_end(said)}"
    if image.exists():
        shutil.rmtree(work)
        image.rename(work)
    again = ((EQUAL, stage.work), (RECOVERED, stage.forced))
    for outcome, work_again in again:
        if work_again is None:
            continue
        status, said = run_forked(work_again, work, None, log)
        if "Traceback" in said:
            why += f" traceback when run again: {_end(said)}"
        result = stage.result(work) if status == 0 else None
        if result == expected:
            left = [path.name for path in work.rglob(".*.tuneserve-*")]
            return outcome, why + (f" left behind: {left}" if left else "")
        why += f" run again: status {status}, result {str(result)[:200]}: {_end(said)}"
    return NOT, why


def _copied(source: Path, target: Path) -> Path:
    shutil.rmtree(target, ignore_errors=True)
    return Path(shutil.copytree(source, target, symlinks=True))


def _end(said: str) -> str:
    return " | ".join(said.strip().splitlines()[-4:])[-400:]


def run_forked(
    work: Callable[[], None], folder: Path, hook: Callable[[], Hook] | None, log: Path
) -> tuple[int, str]:
    """(exit status, output) of `work` in a fork, in `folder`; negative: the signal."""
    child = os.fork()
    if child == 0:
        status = 70
        try:
            os.chdir(folder)
            target = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            for number in (1, 2):
                os.dup2(target, number)
            sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
            if hook is not None:
                arm(hook(), str(folder))
            status = _status_of(work)
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return status, log.read_text(errors="replace") if log.exists() else ""


def _status_of(work: Callable[[], None]) -> int:
    try:
        work()
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 0
    except (TuneserveError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except BaseException:
        traceback.print_exc()
        return 70
    return 0


def counted(found: Found, ways: Iterable[str] = WAYS) -> Iterator[str]:
    """A line for each way: how many trials ended how."""
    for way in ways:
        counts = {outcome: found.outcomes[way, outcome] for outcome in (EQUAL, RECOVERED, NOT)}
        yield f"{way}: " + ", ".join(f"{count} {outcome}" for outcome, count in counts.items())
