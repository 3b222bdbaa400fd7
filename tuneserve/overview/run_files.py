"""What lies in a run's folder: which of it tuneserve made, and what of that can be removed."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Container, Iterator, Mapping, Sequence
from pathlib import Path

from tuneserve.base.import_gguf import CHECKPOINT_FILES
from tuneserve.bench.measure.sweep_files import STEPS as SWEEP_STEPS
from tuneserve.bench.report.pages import REPORT_FILES
from tuneserve.errors import TuneserveError
from tuneserve.files import is_leftover, is_made, numbered, remove
from tuneserve.finetune.training.checkpoints import (
    OWN_FILES,
    foreign_in_checkpoint,
    is_checkpoint,
    is_replacing,
)
from tuneserve.finetune.training.progress_file import FILE as PROGRESS_FILE
from tuneserve.finetune.training.trained_files import ADAPTER_FILES, DATA_FILES
from tuneserve.locks import holder
from tuneserve.records import Record
from tuneserve.run import DAMAGED, STAGES, RunDirectory, RunRecord
from tuneserve.settings import QUANTIZATIONS
from tuneserve.tracking.stage import FILE as TRACKING

_AT_THE_TOP = (
    ".lock", "run.json", *numbered(f"run.json.{DAMAGED}-"),
    "curves.html", PROGRESS_FILE, TRACKING, "bench-journal.jsonl", "bench-journal-before.jsonl",
)  # fmt: skip
_LOGS = tuple(f"{stage}.log" for stage in STAGES)


class Removable(Record):
    """Something that can be removed: its place, what it is, its size in bytes, and what is lost
    without it."""

    path: str
    what: str
    size_bytes: int
    lost: str


def size_of(path: Path) -> int:
    """Bytes of a file or of all files below a folder; what has several names counts once. Links
    are not followed."""
    paths = [path, *(Path(folder, name) for folder, _, names in os.walk(path) for name in names)]
    states = (one.lstat() for one in paths if one.is_symlink() or one.is_file())
    return sum({(state.st_dev, state.st_ino): state.st_size for state in states}.values())


def holder_of(run: RunDirectory) -> str | None:
    """The process that is at work on a run, in words; None if there is none."""
    return holder(run.lock)


def removable_of(
    run: RunDirectory, *, held: bool = False, record: RunRecord | None = None
) -> list[Removable]:
    """What of a run can be removed and the run stays whole, by its `record`, which is read where it
    is not given. Nothing where another process is at work on it (`held`: this one has its lock),
    its record can't be read, or its folder is a link to another run's."""
    if run.other_name_of is not None:
        return []
    try:
        stages = (record or run.read()).stages
    except TuneserveError:
        return []
    if not held and holder_of(run) is not None:
        return []
    found = [
        Removable(
            path=str(folder), what="left by a process that was killed", size_bytes=size_of(folder),
            lost="nothing",
        )
        for folder in _leftovers(run.root)
    ]  # fmt: skip
    checkpoints = [path for path in _spent(run, stages) if is_checkpoint(path)]
    if checkpoints:
        found.append(
            Removable(
                path=str(run.checkpoints),
                what=f"checkpoints of a training that is done ({len(checkpoints)})",
                size_bytes=sum(map(size_of, checkpoints)),
                lost="the adapters of other steps; the best one is in adapter/",
            )
        )
    before = run.root / "bench-journal-before.jsonl"
    if before.is_file():
        found.append(
            Removable(
                path=str(before), what="measurements that --force replaced",
                size_bytes=size_of(before), lost="the earlier measurements",
            )
        )  # fmt: skip
    return found


def kept_in(run: RunDirectory) -> list[Path]:
    """What lies in checkpoints of a training that is done and was not made by tuneserve: these
    checkpoints stay. Nothing where `removable_of` has nothing."""
    if run.other_name_of is not None:
        return []
    try:
        stages = run.read().stages
    except TuneserveError:
        return []
    return [inner for path in _spent(run, stages) for inner in foreign_in_checkpoint(path)]


def _spent(run: RunDirectory, stages: Container[str]) -> list[Path]:
    """What lies among the checkpoints of a training that is done."""
    done = "train" in stages and run.adapter.is_dir() and not is_replacing(run.checkpoints)
    return _inside(run.checkpoints) if done else []


def remove_part(part: Removable) -> None:
    """Remove what `removable_of` found: of checkpoints only those that the trainer wrote."""
    path = Path(part.path)
    if path.name != "checkpoints":
        remove(path)
        return
    for inner in _inside(path):
        if is_checkpoint(inner):
            remove(inner)


def remove_run(run: RunDirectory) -> list[Path]:
    """Remove a run; returns what is left because tuneserve did not make it. Its record goes last,
    so that a removal that was killed can be done again. Of a link to another run's folder, or to
    nothing, the link alone. Raises TuneserveError where a process is at work on it."""
    if run.other_name_of is not None or run.leads_nowhere:
        run.root.unlink()
        return []
    with run.alone(damaged=True):
        kept = foreign_in(run)
        spared = {path.absolute() for path in kept}
        last = [run.record_path, run.lock]
        for path in _made(run):
            if path not in last and path.absolute() not in spared:
                remove(path)
        for folder in (run.root / name for name in _folders(run)):
            if folder.is_dir() and not folder.is_symlink() and not _inside(folder):
                folder.rmdir()
        for path in last:
            if not path.is_dir():  # somebody else's
                remove(path)
    if not _inside(run.root):
        target = run.root.resolve()
        if run.root.is_symlink():
            run.root.unlink()
        target.rmdir()
    return kept


def foreign_in(run: RunDirectory) -> list[Path]:
    """What lies in a run and was not made by tuneserve, and checkpoints that hold such."""
    return [path for path, ours in _looked_at(run) if not ours]


def _made(run: RunDirectory) -> list[Path]:
    return [path for path, ours in _looked_at(run) if ours]


def _looked_at(run: RunDirectory) -> Iterator[tuple[Path, bool]]:
    """What lies in a run and in its folders; was it made by tuneserve?"""
    known = _folders(run)
    for path in _inside(run.root):
        if path.name in known and path.is_dir() and not path.is_symlink():
            for inner in _inside(path):
                spent = path == run.checkpoints and is_checkpoint(inner)
                yield inner, spent or _is_ours(inner, known[path.name])
        else:
            yield path, _is_ours(path, _AT_THE_TOP)


def _folders(run: RunDirectory) -> Mapping[str, Sequence[str]]:
    """The files that the stages make, by the run's folder. GGUFs have the name that the run had
    when they were made; where its record can't be read, that is not known."""
    names = {run.name}
    with contextlib.suppress(TuneserveError):
        names.add(run.read().name or run.name)
    ggufs = [f"{name}-{kind}.gguf" for name in (*names, "base") for kind in QUANTIZATIONS]
    ggufs += [f"{name}.imatrix.gguf" for name in names]
    return {
        "data": DATA_FILES,
        "checkpoints": OWN_FILES,
        "adapter": ADAPTER_FILES,
        "gguf": (*ggufs, "README.md", "SHA256SUMS", "Modelfile"),
        "bench": REPORT_FILES,
        "bench-ladder": [step.file_name for step in SWEEP_STEPS],
        "merged": (*CHECKPOINT_FILES, "README.md"),
        # With the time in seconds.
        "tensorboard": (f"events.out.tfevents.{10 * '[0-9]'}.*",),
        "logs": _LOGS,
    }


def _is_ours(path: Path, patterns: Sequence[str]) -> bool:
    return is_made(path, patterns) or is_leftover(path)


def _inside(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _leftovers(root: Path) -> Iterator[Path]:
    for folder, names, _ in os.walk(root):
        for name in sorted(names):
            if is_leftover(Path(folder, name)):
                names.remove(name)
                yield Path(folder, name)
