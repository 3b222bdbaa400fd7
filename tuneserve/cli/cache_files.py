"""What lies in the cache and can be removed: everything there is made or fetched again."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from tuneserve.base.import_gguf import CHECKPOINT_FILES
from tuneserve.base.resolve import IMPORTED
from tuneserve.cli.compiled_files import made_by_inductor, made_by_unsloth
from tuneserve.console import say
from tuneserve.errors import TuneserveError
from tuneserve.files import cache_directory, clear_leftovers, is_leftover, is_made, remove
from tuneserve.finetune.data.hub import FETCHED
from tuneserve.finetune.training.result import TrainOutput
from tuneserve.in_use import unused, user_of
from tuneserve.locks import HeldError, locked
from tuneserve.overview.run_files import Removable, holder_of, size_of
from tuneserve.run import RunDirectory
from tuneserve.sentiment import ARCHIVE


def _named(name: str) -> Callable[[Path], list[Path]]:
    """Finds the files of a folder whose whole name matches."""

    def made(folder: Path) -> list[Path]:
        inside = sorted(folder.iterdir())
        return [path for path in inside if path.is_file() and re.fullmatch(name, path.name)]

    return made


class _Folder(NamedTuple):
    """A folder of the cache: what it is, what is lost with it, and which files in it were made."""

    what: str
    lost: str
    made: Callable[[Path], list[Path]]


_FOLDERS = {
    "unsloth_compiled": _Folder(
        "modules that Unsloth compiled", "compiling again", made_by_unsloth
    ),
    "compiled_kernels": _Folder(
        "compiled layers of trainings", "a minute of compiling", made_by_inductor
    ),
    "loadable": _Folder(
        "which GGUFs llama.cpp loads", "about a second for each", _named("[0-9a-f]{32}")
    ),
    "data": _Folder("data that was fetched", "it is fetched again", _named(re.escape(ARCHIVE))),
    "data/hub": _Folder(
        "data sets that were fetched", "they are fetched again", _named(FETCHED.pattern)
    ),
}


def cache_parts(runs: Sequence[RunDirectory]) -> list[Removable]:
    """The parts of the cache; what a process uses, and bases that a run was trained on or that hold
    somebody's files, are left out."""
    cache = cache_directory()
    found = [
        Removable(
            path=str(cache / name), what=folder.what, size_bytes=sum(map(size_of, made)),
            lost=folder.lost,
        )
        for name, folder in _FOLDERS.items()
        if (made := _free(name))
    ]  # fmt: skip
    found += [
        Removable(
            path=str(base), what="a base imported from a GGUF", size_bytes=size_of(base),
            lost="it is imported again",
        )
        for base in _spare_bases(runs)
        if not _foreign_in(base) and user_of(base) is None
    ]  # fmt: skip
    return found


def used_in_cache() -> dict[Path, str]:
    """The bases, data sets and folders that stay because a process uses them, and which one."""
    found = {base: user_of(base) for base in _bases()}
    for name in _FOLDERS:
        folder, made = cache_directory() / name, _made(name)
        user = user_of(folder) if made else None
        found |= {folder: user} if user else {path: user_of(path) for path in made}
    return {path: user for path, user in found.items() if user is not None}


def kept_bases() -> list[Path]:
    """What lies in imported bases and was not made by an import: these bases stay."""
    return [inner for base in _bases() for inner in _foreign_in(base)]


def foreign_in_folders() -> list[Path]:
    """The files in the other folders that were not made there: they stay."""
    inside: set[Path] = set()
    made: set[Path] = set()
    for name in _FOLDERS:
        if (folder := _own_folder(name)) is not None:
            inside.update(_files_in(folder))
            made.update(_made(name))
    return sorted(inside - made)


def _files_in(folder: Path) -> Iterator[Path]:
    """Files and links below a folder, but for what a process has left half-written."""
    for root, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not is_leftover(Path(root, name))]
        links = (name for name in folders if Path(root, name).is_symlink())
        yield from (Path(root, name) for name in (*names, *links))


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
    """Remove parts of the cache; returns how many bytes. What a process has begun to use meanwhile,
    or is importing, stays, and it is said."""
    removed = 0
    for part in parts:
        path = Path(part.path)
        if path.parent.name == "bases":
            with _told_if_used(), locked(path.with_name(f"{path.name}.lock"), wait=False):
                removed += _remove_unused(path)
            continue
        with _told_if_used(), unused(path):
            for made in _made(path.relative_to(cache_directory()).as_posix()):
                with _told_if_used():
                    removed += _remove_unused(made)
                _remove_emptied(made.parent, path)
            clear_leftovers(path)
    return removed


@contextmanager
def _told_if_used() -> Iterator[None]:
    try:
        yield
    except HeldError as error:
        say(f"stays: {error.render()}")
    except FileNotFoundError:
        pass  # somebody else has removed it


def _remove_unused(path: Path) -> int:
    """Returns how many bytes. Raises HeldError."""
    with unused(path):
        size = size_of(path)
        remove(path)
    return size


def _remove_emptied(folder: Path, top: Path) -> None:
    """Remove a folder below `top` out of which the last file has gone, and those that held it."""
    while folder != top and not any(folder.iterdir()):
        folder.rmdir()
        folder = folder.parent


def _made(name: str) -> list[Path]:
    """What was made in a folder of the cache."""
    folder = _own_folder(name)
    return _FOLDERS[name].made(folder) if folder else []


def _free(name: str) -> list[Path]:
    """What of it no process uses."""
    made = _made(name)
    if made and user_of(cache_directory() / name) is not None:
        return []
    return [path for path in made if user_of(path) is None]


def _own_folder(name: str) -> Path | None:
    folder = cache_directory() / name
    return folder if folder.is_dir() and not folder.is_symlink() else None


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
