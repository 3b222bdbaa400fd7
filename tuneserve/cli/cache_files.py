"""What lies in the cache and can be removed: everything there is made or fetched again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tuneserve.base.import_gguf import CHECKPOINT_FILES
from tuneserve.base.resolve import IMPORTED
from tuneserve.console import say
from tuneserve.errors import TuneserveError
from tuneserve.files import cache_directory, clear_leftovers, is_made, remove
from tuneserve.finetune.training.result import TrainOutput
from tuneserve.locks import HeldError, locked
from tuneserve.overview.run_files import Removable, holder_of, size_of
from tuneserve.run import RunDirectory
from tuneserve.sentiment import ARCHIVE

_ALL = ("*", "*/")
# By folder of the cache: what it is, what is lost with it, and the files that are made there. Those
# of compilers have names of the compilers' own.
_FOLDERS = {
    "unsloth_compiled": ("modules that Unsloth compiled", "compiling again", _ALL),
    "compiled_kernels": ("compiled layers of trainings", "a minute of compiling", _ALL),
    "loadable": ("which GGUFs llama.cpp loads", "about a second for each", ("[0-9a-f]" * 32,)),
    "data": ("data that was fetched", "it is fetched again", (ARCHIVE,)),
    "data/hub": ("data sets that were fetched", "they are fetched again", ("*.parquet",)),
}


def cache_parts(runs: Sequence[RunDirectory]) -> list[Removable]:
    """The parts of the cache; bases that a run was trained on, that hold somebody's files, or that
    are being imported, are left out."""
    cache = cache_directory()
    found = [
        Removable(path=str(cache / name), what=what, size_bytes=sum(map(size_of, made)), lost=lost)
        for name, (what, lost, _) in _FOLDERS.items()
        if (made := _made(name))
    ]
    found += [
        Removable(
            path=str(base), what="a base imported from a GGUF", size_bytes=size_of(base),
            lost="it is imported again",
        )
        for base in _spare_bases(runs)
        if not _foreign_in(base)
    ]  # fmt: skip
    return found


def kept_bases() -> list[Path]:
    """What lies in imported bases and was not made by an import: these bases stay."""
    return [inner for base in _bases() for inner in _foreign_in(base)]


def _spare_bases(runs: Sequence[RunDirectory]) -> list[Path]:
    """The bases that no run was trained on. None of them while that is not known of some run: it
    can't be read, or a process is at work on it."""
    used = set()
    for run in runs:
        try:
            base = _base_of(run)
            used.add(None if base is None else base.resolve())
        except (TuneserveError, OSError, ValueError, RuntimeError) as error:
            why = error.message if isinstance(error, TuneserveError) else str(error)
            say(f"imported bases stay: it is not known which of them run {run.name} needs ({why})")
            return []
    return [base for base in _bases() if base.resolve() not in used]


def remove_cached(parts: Sequence[Removable]) -> int:
    """Remove parts of the cache; returns how many bytes. A base that is being imported right now
    stays."""
    removed = 0
    for part in parts:
        path = Path(part.path)
        if path.parent.name != "bases":
            for inner in _made(path.relative_to(cache_directory()).as_posix()):
                remove(inner)
            clear_leftovers(path)
        else:
            try:
                with locked(path.with_name(f"{path.name}.lock"), wait=False):
                    remove(path)
            except HeldError:
                continue
        removed += part.size_bytes
    return removed


def _made(name: str) -> list[Path]:
    """What was made in a folder of the cache."""
    folder, patterns = cache_directory() / name, _FOLDERS[name][2]
    is_own = folder.is_dir() and not folder.is_symlink()
    inside = sorted(folder.iterdir()) if is_own else []
    return [path for path in inside if is_made(path, patterns)]


def _bases() -> list[Path]:
    """Folders that have names of imports; others there are somebody's."""
    folders = sorted((cache_directory() / "bases").glob("*/"))
    return [path for path in folders if IMPORTED.fullmatch(path.name) and not path.is_symlink()]


def _foreign_in(base: Path) -> list[Path]:
    return [path for path in sorted(base.iterdir()) if not is_made(path, CHECKPOINT_FILES)]


def _base_of(run: RunDirectory) -> Path | None:
    """The checkpoint that a run was trained on, if it was. Raises TuneserveError where its record
    does not tell."""
    if not run.record_path.exists() and any(run.root.glob(f"{run.record_path.name}.*")):
        raise TuneserveError("its record was damaged and set aside")
    if (process := holder_of(run)) is not None:
        raise TuneserveError(f"{process} is at work on it")
    trained = run.finished("train", TrainOutput)
    return Path(trained.base.path) if trained is not None else None
