"""Stages that are killed, refused by the disk or cut off from power at each of their failpoints,
and run again: the result has to be that of a stage that nothing happened to.

A trial runs in a fork of this process, which has imported what the stage needs: seconds for each of
hundreds of trials would be too long. For the same reason what is left at each point is taken from
one run, and equal remains are tried once.
"""

from __future__ import annotations

import errno
import hashlib
import math
import os
import pickle
import random
import re
import shutil
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
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
    planned: int = 0
    trials: int = 0
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
        if path.is_dir():
            self._names[self._hold(path)] = self._names_in(path)
        else:
            self._data[self._hold(path)] = path.read_bytes()

    def _names_in(self, folder: Path) -> dict[str, int]:
        inner = (entry for entry in folder.iterdir() if not entry.is_symlink())
        return {entry.name: self._hold(entry) for entry in inner}

    def _hold(self, path: Path) -> int:
        """The inode, which no other file gets as long as it is open."""
        inode = path.stat().st_ino
        if inode not in self._held:
            self._held[inode] = os.open(path, os.O_PATH)
        return inode

    def image(self, target: Path, *, names_kept: bool) -> None:
        """Write what is left to `target`; with `names_kept` the names are as they are now."""
        names = dict(self._names)
        if names_kept:
            for folder, *_ in os.walk(self.root):
                names[self._hold(Path(folder))] = self._names_in(Path(folder))
        self._copy(self.root.stat().st_ino, target, names, {})

    def _copy(
        self, inode: int, target: Path, names: dict[int, dict[str, int]], copied: dict[int, Path]
    ) -> None:
        if inode in copied:
            os.link(copied[inode], target)
            return
        if Path(f"/proc/self/fd/{self._held[inode]}").is_dir():
            target.mkdir()
            for name, inner in names.get(inode, {}).items():
                self._copy(inner, target / name, names, copied)
            return
        size, kept = os.fstat(self._held[inode]).st_size, self._data.get(inode, b"")
        target.write_bytes(kept + bytes(max(size - len(kept), 0)))
        copied[inode] = target


class _At:
    """The hook that tells of an error of the disk at the n-th point."""

    def __init__(self, number: int, way: str) -> None:
        self.left, self.error = number, _ERRORS[way]

    def __call__(self, name: str, path: str) -> None:
        self.left -= 1
        if not self.left:
            raise OSError(self.error, os.strerror(self.error), path)


@dataclass(frozen=True)
class _Entry:
    """What stands at a path: a folder, a link to `target`, or a file (`target`: its content's
    SHA-256; `same_as`: the path that it was a hard link of)."""

    kind: str
    target: str = ""
    same_as: str = ""
    modified_ns: int = field(default=0, compare=False)


Tree = tuple[tuple[str, _Entry], ...]
# What differs from run to run and decides nothing: when it was, how long it took, whose file it is.
_PASSING = re.compile(
    rb'("(?:pid|\w*seconds?|\w*runtime)": )[\d.e+-]+'
    rb"|\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d[\d.:+Z-]*|(?<=tuneserve-)\w{8}"
)
_LARGE = 1 << 20


class Images:
    """Folders as they were at some moment; what many of them hold is kept once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def take(self, root: Path) -> Tree:
        """Keep what stands below `root`. Trees are equal where paths, contents and links are."""
        found: dict[str, _Entry] = {}
        first: dict[int, str] = {}
        for path in sorted(root.rglob("*")):
            name = str(path.relative_to(root))
            if path.is_symlink():
                found[name] = _Entry("link", str(path.readlink()))
            elif path.is_dir():
                found[name] = _Entry("folder")
            else:
                data, status = path.read_bytes(), path.stat()
                digest = hashlib.sha256(data).hexdigest()
                if not (kept := self.folder / digest).exists():
                    kept.write_bytes(data)
                other = first.setdefault(status.st_ino, name) if status.st_nlink > 1 else name
                same_as = "" if other == name else other
                found[name] = _Entry("file", digest, same_as, status.st_mtime_ns)
        return tuple(found.items())

    def alike(self, tree: Tree) -> str:
        """Equal for trees that differ in what passes alone: times and random names."""
        found = hashlib.sha256()
        for name, entry in tree:
            target = entry.target
            kept = self.folder / target
            if entry.kind == "file" and not entry.same_as and kept.stat().st_size < _LARGE:
                data = _PASSING.sub(rb"\1", kept.read_bytes())
                target = hashlib.sha256(data).hexdigest()
            shown = re.sub(r"tuneserve-\w+", "tuneserve-", name)
            found.update(f"{shown}\0{entry.kind}\0{target}\0{entry.same_as}\n".encode())
        return found.hexdigest()

    def lay_out(self, tree: Tree, target: Path) -> None:
        """Make `target` what was kept."""
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir()
        for name, entry in tree:
            path = target / name
            if entry.kind == "folder":
                path.mkdir()
            elif entry.kind == "link":
                path.symlink_to(entry.target)
            elif entry.same_as:
                path.hardlink_to(target / entry.same_as)
            else:
                shutil.copyfile(self.folder / entry.target, path)
                os.utime(path, ns=(entry.modified_ns, entry.modified_ns))


@dataclass
class Passage:
    """A point that a stage passed: what it does to which path, the place in the code (a hash of the
    stack), and what would be left by each way of being stopped there."""

    name: str
    place: str
    left: dict[str, Tree]


class _Witness:
    """The hook that lets a stage go on, and takes an image of what each way of stopping it would
    have left at each point."""

    def __init__(self, work: Path, scratch: Path, ways: Iterable[str], out: Path) -> None:
        self.work, self.scratch, self.out = work, scratch, out
        self.images = Images(scratch / "images")
        self.ways = [way for way in ways if way not in _ERRORS]
        self.disk = Disk(work)
        self.passages: list[Passage] = []

    def __call__(self, name: str, path: str) -> None:
        if name == "synced":
            self.disk.synced(Path(path))
        left = {}
        for way in self.ways:
            if way == KILL:
                left[way] = self.images.take(self.work)
                continue
            image = self.scratch / "image"
            self.disk.image(image, names_kept=way == POWER_NAMES)
            left[way] = self.images.take(image)
            shutil.rmtree(image)
        stack = "".join(f"{f.filename}:{f.lineno}" for f in traceback.extract_stack())
        place = hashlib.sha256(f"{name} {stack}".encode()).hexdigest()
        text = f"{name} {path}".replace(str(self.work), "")
        self.passages.append(Passage(re.sub(r"tuneserve-\w+", "tuneserve-*", text), place, left))
        self.out.write_bytes(pickle.dumps(self.passages))


def passages_of(
    stage: Stage, start: Path, scratch: Path, ways: Iterable[str]
) -> tuple[list[Passage], Any]:
    """The points that a stage passes, in order, and its result."""
    work, out = _copied(start, scratch / "work"), scratch / "passages"
    status, said = run_forked(
        stage.work, work, lambda: _Witness(work, scratch, ways, out), scratch / "log"
    )
    assert status == 0, said
    found: list[Passage] = pickle.loads(out.read_bytes())  # written by our own fork
    return found, stage.result(work)


def try_stage(
    stage: Stage,
    scratch: Path,
    ways: Iterable[str] = WAYS,
    every: int = 1,
    seconds: float = math.inf,
    told: Callable[[str], None] = lambda _: None,
    errors_at_places: bool = False,
) -> Found:
    """Fail the stage at every point (or every few), in all ways, and run it again. Where there are
    but so many `seconds`, in as many trials as there is time for, drawn by chance.

    What a killed stage or a power cut leaves is taken from one run that goes on, and points that
    leave the same (but for times and random names) are tried once: a stage that is run again sees
    nothing but that. An error of the disk is given to a run of its own at each point; with
    `errors_at_places` at each place in the code, the first and the last time that it is passed."""
    start = scratch / "start"
    start.mkdir(parents=True)
    stage.prepare(start)
    ways = list(ways)
    passages, expected = passages_of(stage, start, scratch, ways)
    numbers = range(1, len(passages) + 1, every)
    found = Found([passage.name for passage in passages])
    states: dict[tuple[str, Tree], list[int]] = {}
    for way in ways:
        for number in numbers if way not in _ERRORS else ():
            states.setdefault((way, passages[number - 1].left[way]), []).append(number)
    # A power cut often leaves what a kill does.
    trees: dict[Tree, list[tuple[str, list[int]]]] = {}
    for (way, tree), which in states.items():
        trees.setdefault(tree, []).append((way, which))
    failing = _ends_of_places(passages, numbers) if errors_at_places else numbers
    errors = [(number, way) for number in failing for way in ways if way in _ERRORS]
    work, log, images = scratch / "work", scratch / "log", Images(scratch / "images")
    tried: dict[str, tuple[str, str]] = {}

    def again(tree: Tree) -> tuple[str, str]:
        key = images.alike(tree)
        if key not in tried:
            tried[key] = _again(stage, work, log, expected)
        return tried[key]

    def remains(tree: Tree) -> tuple[str, str]:
        images.lay_out(tree, work)
        return again(tree)

    def error(number: int, way: str) -> tuple[str, str]:
        _copied(start, work)
        status, said = run_forked(stage.work, work, lambda: _At(number, way), log)
        # An error that the stage can do without leaves its result as it is.
        clean = status in (0, 1) and "Traceback" not in said
        outcome, why = again(images.take(work))
        return outcome, ("" if clean else f"status {status}: {_end(said)}") + why

    trials = [(partial(remains, tree), stopped) for tree, stopped in trees.items()]
    trials += [(partial(error, *which), [(which[1], [which[0]])]) for which in errors]
    found.planned = len(trials)
    if seconds < math.inf:
        random.Random(0).shuffle(trials)
    began = time.monotonic()
    for trial, stopped in trials:
        if time.monotonic() - began > seconds:
            break
        found.trials += 1
        outcome, why = trial()
        for way, which in stopped:
            found.outcomes[way, outcome] += len(which)
            if outcome != EQUAL or why:
                at = f"{which[0]} ({found.points[which[0] - 1]})"
                found.problems.append(f"{stage.name}, {way} at {at}: {outcome}: {why}")
                told(found.problems[-1])
    return found


def _ends_of_places(passages: list[Passage], numbers: Iterable[int]) -> list[int]:
    first: dict[str, int] = {}
    last: dict[str, int] = {}
    for number in numbers:
        place = passages[number - 1].place
        first.setdefault(place, number)
        last[place] = number
    return sorted({*first.values(), *last.values()})


def _again(stage: Stage, work: Path, log: Path, expected: Any) -> tuple[str, str]:
    """The stage is run in what was left of it; with its way out, if that is refused."""
    why = ""
    for outcome, work_again in ((EQUAL, stage.work), (RECOVERED, stage.forced)):
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
