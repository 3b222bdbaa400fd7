"""Which files a data path means: a file, what a pattern matches, the data files of a folder.

What lies in a folder and is no data (a licence, a README, files about the data) is not read, and
told.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tuneserve.errors import UsageError
from tuneserve.files import check_regular
from tuneserve.finetune.data.containers import PACKED_ENDINGS, kind_of
from tuneserve.finetune.data.dataset_info import DATASET_INFO, Layout, read_dataset_info
from tuneserve.finetune.data.keys import side_of_name
from tuneserve.finetune.data.notes import Notes

TEXT_KINDS = (".txt", ".md")
KINDS = (
    ".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".arrow", ".feather", *TEXT_KINDS
)  # fmt: skip
_ABOUT = re.compile(
    r"(readme|licen[cs]e|notice|copying|copyright|changelog|changes|contributing|citation|authors|"
    r"contributors|code_of_conduct|security|disclaimer|requirements|third_party)([^a-z].*)?"
)
_ABOUT_DATA = re.compile(
    r"(dataset_infos?|dataset_dict|metadata|state|config|package|package-lock|croissant|schema)\.json"
)
_LEFT_OUT = re.compile(r"\..*|__macosx|__pycache__|checkpoint-\d+", re.IGNORECASE)
_NAMES_TOLD = 8
_OF_COURSE = ("about the data", "hidden or left by a tool")
"""Reasons for which nobody expects a file to be read."""
_HINTS = dict.fromkeys((".xlsx", ".xls", ".ods"), "Save it as CSV (UTF-8).") | dict.fromkeys(
    (".zip", ".tar", ".tgz", ".7z", ".rar"), "Unpack it, and name its folder."
)


@dataclass(frozen=True)
class DataFile:
    """A file to read: its path, the name that tells its records from those of other files, the
    side of the split that its name says, and how its records are laid out if a file beside it
    says so."""

    path: Path
    name: str
    side: str | None = None
    layout: Layout | None = None


@dataclass
class Found:
    """The files that a data path means, and all that were read to find them out."""

    files: list[DataFile]
    notes: Notes = field(default_factory=Notes)
    described_by: list[Path] = field(default_factory=list)


def find_data(path: Path) -> Found:
    """The files of a data path, in the order of their names.

    Raises UsageError if there are none, or one is of no kind that is read here, or no file.
    """
    found = _found(_with_home(path))
    for file in found.files:
        check_regular(file.path)
    return found


def _found(path: Path) -> Found:
    if path.is_dir():
        return _chosen(path, sorted(_walked(path)), f"no data file in it ({_known()})")
    if path.exists():
        if path.name == DATASET_INFO and (layouts := read_dataset_info(path)):
            found = Found([])
            _add_described(found, path.parent, path, layouts)
            return _filled(found, path, "no data set in it that can be read")
        if kind_of(path) not in KINDS:
            raise UsageError(
                f"not a kind of file that is read here ({_known()})",
                where=str(path),
                hint=_HINTS.get(kind_of(path), ""),
            )
        return Found([DataFile(path, str(path), side_of_name(path.name))])
    matches = _matches(path)
    if not matches:
        pattern = glob.has_magic(str(path))
        raise UsageError(
            "no file matches this pattern" if pattern else "no such data file",
            where=str(path),
            hint="Set [data] file or --file; `tuneserve data sentiment` makes a demo file.",
        )
    files = {file for match in matches for file in (_walked(match) if match.is_dir() else [match])}
    return _chosen(_fixed_part(path), sorted(files), f"no data file matches ({_known()})")


def is_there(path: Path) -> bool:
    """Does a data path, which may be a pattern, mean anything that exists?"""
    path = _with_home(path)
    return path.exists() or bool(_matches(path))


def _with_home(path: Path) -> Path:
    return Path(os.path.expanduser(path))  # noqa: PTH111 - the '~' of no user's stays as it is


def _matches(pattern: Path) -> list[Path]:
    found = glob.glob(str(pattern), recursive=True)  # noqa: PTH207 - a pattern may be absolute
    return sorted(path for path in map(Path, found) if path.exists())  # no links to nothing


def _known() -> str:
    return f"known are {', '.join(KINDS)}, also packed as {', '.join(PACKED_ENDINGS)}"


def _fixed_part(pattern: Path) -> Path:
    """The folder that a pattern begins with."""
    parts = pattern.parts
    magic = next(place for place, part in enumerate(parts) if glob.has_magic(part))
    return Path(*parts[:magic])


def _walked(folder: Path) -> Iterator[Path]:
    """All files below a folder, each folder once. What is hidden is given by its own name only."""
    seen = set[str]()
    for where, folders, files in os.walk(folder, followlinks=True, onerror=_unreadable):
        real = os.path.realpath(where)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        left_out = [name for name in folders if _LEFT_OUT.fullmatch(name)]
        folders[:] = [name for name in folders if name not in left_out]
        yield from (Path(where, name) for name in (*files, *left_out))


def _unreadable(error: OSError) -> None:
    raise UsageError(f"can't be read: {error.strerror}", where=str(error.filename)) from error


def _chosen(root: Path, paths: Sequence[Path], problem: str) -> Found:
    """Those of the paths that hold data."""
    found = Found([])
    unread: dict[str, list[Path]] = {}
    described: dict[Path, Path] = {}
    named = set[Path]()
    for path in paths:
        if path.name == DATASET_INFO and (layouts := read_dataset_info(path)):
            described |= dict.fromkeys((p for p in paths if path.parent in p.parents), path)
            named |= _add_described(found, root, path, layouts)
    data = [p for p in paths if p not in found.described_by and p not in named]
    tabular = bool(named) or any(
        _reason(p, texts=True) is None and kind_of(p) not in TEXT_KINDS for p in data
    )
    for path in data:
        reason = _reason(path, texts=not tabular)
        if reason is None and path in described:
            reason = f"{described[path].name} does not list it"
        if reason:
            unread.setdefault(reason, []).append(path)
        else:
            name = str(path.relative_to(root))
            found.files.append(DataFile(path, name, _side(Path(name))))
    for reason, some in unread.items():
        names = ", ".join(str(p.relative_to(root)) for p in some[:_NAMES_TOLD])
        more = f" and {len(some) - _NAMES_TOLD} more" if len(some) > _NAMES_TOLD else ""
        text, odd = f"not read, {reason}: {names}{more}", reason not in _OF_COURSE
        found.notes.add(text, str(some[0]), len(some), odd=odd)
    found.files.sort(key=lambda file: file.path)
    return _filled(found, root, problem)


def _filled(found: Found, path: Path, problem: str) -> Found:
    if not found.files:
        raise UsageError(problem, where=str(path), problems=found.notes.lines())
    return found


def _reason(path: Path, *, texts: bool) -> str | None:
    """Why a file of a folder is not read, if it isn't; `texts`: is text data in this folder?"""
    kind, stem = kind_of(path), path.stem.lower()
    if _LEFT_OUT.fullmatch(path.name):
        return _OF_COURSE[1]
    if kind not in KINDS:
        return "no kind of file that is read here"
    if kind in TEXT_KINDS and _ABOUT.fullmatch(stem):
        return _OF_COURSE[0]
    if _ABOUT_DATA.fullmatch(path.name.lower()):
        return _OF_COURSE[0]
    if kind in TEXT_KINDS and not texts:
        return "text beside files of records (name it in `more` to train on it)"
    return None


def _side(name: Path) -> str | None:
    """The side that a file's name says, or else the nearest of its folders."""
    return next((side for part in (name, *name.parents) if (side := side_of_name(part.name))), None)


def _add_described(found: Found, root: Path, info: Path, layouts: dict[str, Layout]) -> set[Path]:
    """Add the data sets of a dataset_info.json that are there, and tell of the others; all the
    files that it names."""
    found.described_by.append(info)
    named = set[Path]()
    for name, layout in layouts.items():
        files = _files_at(info.parent / layout.file_name) if layout.file_name else []
        named.update(files)
        reason = layout.refused or ("" if files else f"no data file {layout.file_name!r}")
        if reason:
            found.notes.add(
                f"the data set {name!r} of {info.name} is not read: {reason}", str(info)
            )
            continue
        for file in files:
            label = file.relative_to(root) if file.is_relative_to(root) else file
            found.files.append(DataFile(file, str(label), layout.side or _side(label), layout))
    return named


def _files_at(path: Path) -> list[Path]:
    """The file, or the data files of the folder."""
    if path.is_dir():
        return [file for file in sorted(_walked(path)) if _reason(file, texts=False) is None]
    return [path] if path.exists() and kind_of(path) in KINDS else []
