"""Files that are whole or absent, after a loss of power too: written under another name, synced,
then renamed. And texts that a user names: read, or an error that says which and why."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from itertools import count
from pathlib import Path
from typing import Any

from tuneserve.console import human_bytes
from tuneserve.durable import exchange, make_folder, sync_folder, sync_tree
from tuneserve.errors import TuneserveError, UsageError

_ASIDE = ".replaced"


@contextmanager
def atomic_path(final: Path, *, synced: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside `final`; rename it to `final` if the block succeeds.

    Works for files and directories. On any exception the temporary is removed and `final` is left
    as it was. When the call is over, `final` is on the disk; with `synced` False, for what can be
    made again, a loss of power may leave an empty or a damaged file. Raises UsageError where
    `final` is a device or the like.
    """
    check_no_device(final)
    # Inside too: whether the disk is full is seen before the temporary is removed.
    with errors_named(final), temporary_folder(final) as folder, errors_named(final):
        temporary = folder / final.name
        yield temporary
        if synced and temporary.exists():
            sync_tree(temporary)
        replace(temporary, final, aside=folder / _ASIDE)
        if synced:
            sync_folder(final.parent)


def check_no_device(path: Path) -> None:
    """Raise UsageError for what `is_special`."""
    if is_special(path):
        raise UsageError(
            "is no file but a device, a pipe or a stream, and is not replaced",
            where=str(path),
            hint="Choose another name.",
        )


def is_special(path: Path) -> bool:
    """Is it a device, a pipe, a socket or the name of an open file (/dev/stdout)? A rename over it
    would take it away from every program."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        return True
    names = [path, path.parent.resolve() / path.readlink()] if path.is_symlink() else [path]
    return any(name.parent.resolve().is_relative_to("/proc") for name in names)


@contextmanager
def temporary_folder(beside: Path) -> Iterator[Path]:
    """A new hidden folder beside a path, removed at the end: no file of the user's is in its way.
    Those that a killed process left there are cleared."""
    parent = beside.parent
    try:
        make_folder(parent)
        clear_leftovers(parent)
        folder, lock = _locked_folder(beside)
    except FileNotFoundError as error:  # so say file systems that hold no files: /proc
        raise UsageError(
            "nothing can be written in this folder",
            where=str(parent),
            hint="Choose a place that can be written.",
        ) from error
    try:
        yield folder
    finally:
        _clear(folder)
        os.close(lock)


# What a system says when it can't take what is written.
_UNWRITABLE = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG, errno.EIO}
)  # fmt: skip
# How libraries that raise no OSError with a number word it: safetensors, torch's archives, NumPy.
_LIBRARY_WORDS = {"os error 28": errno.ENOSPC, "os error 30": errno.EROFS}
_WORDS_WITHOUT = ("PytorchStreamWriter failed", "unexpected pos", " requested and ")


@contextmanager
def errors_named(place: Path) -> Iterator[None]:
    """Let an OSError about writing name the `place` that is written, in all the forms in which
    libraries raise it while the block runs."""
    try:
        yield
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            if error.errno in _UNWRITABLE and not _names_other_place(error, place):
                error.filename = str(place)
            raise
        number = _number_in(error, place)
        if number is None:
            raise
        raise OSError(number, os.strerror(number), str(place)) from error


def _names_other_place(error: OSError, place: Path) -> bool:
    """Does the error name a file that has nothing to do with `place`, hidden folders aside?"""
    return error.filename is not None and _prefix(place) not in str(error.filename)


def _number_in(error: Exception, place: Path) -> int | None:
    """The system's error number in a library's own error about writing."""
    text = str(error)
    for words, number in _LIBRARY_WORDS.items():
        if words in text:
            return number
    if any(words in text for words in _WORDS_WITHOUT) and not _room(place):
        return errno.ENOSPC
    return None


def _room(place: Path) -> int:
    """Free mebibytes where `place` is, or is to be."""
    folder = next(path for path in (place, *place.absolute().parents) if path.exists())
    return shutil.disk_usage(folder).free >> 20


def _locked_folder(final: Path) -> tuple[Path, int]:
    """A new temporary folder and the descriptor that holds its lock while this process lives."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=_prefix(final), dir=final.parent))
        # Before it is locked, another process can take it for a leftover and remove it.
        with contextlib.suppress(FileNotFoundError):
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX)
                (folder / OURS).touch()
            except BaseException:
                remove(folder)
                os.close(lock)
                raise
            return folder, lock


_MARK = ".tuneserve-"
OURS = ".made-by-tuneserve"  # in each temporary folder: a name alone may be the user's


def _prefix(final: Path) -> str:
    return f".{final.name}{_MARK}"


def clear_leftovers(parent: Path) -> None:
    """Remove temporary folders in `parent` whose process is gone: nobody holds their lock. A folder
    without the file that marks those made here is the user's, whatever its name.

    Where a file system can't exchange two folders, a process killed between the two renames of
    `replace` has left the old one aside and nothing in its place: it is put back.
    """
    for folder in parent.glob(f".*{_MARK}*"):
        try:
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError:  # another process has cleared it, or it is none of ours
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue
        else:
            if not (folder / OURS).is_file():
                with contextlib.suppress(FileNotFoundError):  # another process has cleared it
                    if _is_new(folder):
                        folder.rmdir()
                continue
            final = parent / folder.name[1:].rpartition(_MARK)[0]
            if (folder / _ASIDE).exists() and not final.exists():
                (folder / _ASIDE).rename(final)
                sync_folder(parent)
            _clear(folder)
        finally:
            os.close(lock)


def is_leftover(path: Path) -> bool:
    """Is it a temporary folder that was made here, in use or left by a process that was killed?"""
    if path.is_symlink() or not path.is_dir() or _MARK not in path.name:
        return False
    return (path / OURS).is_file() or _is_new(path)


def _is_new(folder: Path) -> bool:
    """Is it empty, and named as `tempfile` names? A kill came before it was marked."""
    form = re.compile(rf"\..+{re.escape(_MARK)}[a-z0-9_]{{8}}")
    return form.fullmatch(folder.name) is not None and not any(folder.iterdir())


def _clear(folder: Path) -> None:
    """Remove a temporary folder, its mark last: a kill meanwhile leaves one that is known."""
    for inner in folder.glob("*"):
        if inner.name != OURS:
            remove(inner)
    remove(folder)


def replace(source: Path, target: Path, *, aside: Path) -> None:
    """Rename `source` to `target`, replacing what is there (a directory too).

    A directory can't be renamed over a non-empty one: the two are exchanged and the old one is
    deleted. Where the file system can't do that, it is moved to `aside` first.
    Raises UsageError where a file would replace a directory, or a directory a file.
    """
    if not target.is_dir():
        if source.is_dir() and os.path.lexists(target):
            raise UsageError(
                "is no directory, and one is to be written",
                where=str(target),
                hint="Choose another name.",
            )
        source.replace(target)
        return
    if not source.is_dir():
        raise UsageError(
            "is a directory, and a file is to be written",
            where=str(target),
            hint="Choose another name.",
        )
    if exchange(source, target):
        sync_folder(target.parent)  # before the old one goes
        remove(source)
        return
    sync_tree(aside.parent)  # with its mark: `target` is brought back from there
    target.rename(aside)
    try:
        source.rename(target)
    except BaseException:
        aside.rename(target)
        raise
    sync_folder(target.parent)
    remove(aside)


def check_replaceable(target: Path, made: Iterable[str], *, what: str) -> None:
    """Raise UsageError naming what is in the directory `target` and is not of the files that are
    `made` there (patterns, with a / at the end for folders): it would be deleted with them. `what`
    they are stands in the error. What killed processes left half-written there is cleared first."""
    if target.is_symlink() or not target.is_dir():
        return
    if os.access(target, os.W_OK):
        clear_leftovers(target)
    patterns = list(made)
    foreign = sorted(path.name for path in target.iterdir() if not is_made(path, patterns))
    if foreign:
        raise UsageError(
            f"holds files that are no {what}'s, and would be deleted with it",
            where=str(target),
            problems=foreign,
            hint="Move them away, or choose another name.",
        )


def is_made(path: Path, patterns: Iterable[str]) -> bool:
    """Is what lies there, by its name, one of the files (or with a / at the end, folders) of these
    patterns?"""
    is_folder = path.is_dir() and not path.is_symlink()
    return any(
        each.endswith("/") == is_folder and fnmatch(path.name, each.rstrip("/"))
        for each in patterns
    )


def numbered(before: str, after: str = "", *, digits: int = 3) -> tuple[str, ...]:
    """Patterns of the names that have a number of so many digits at most between two parts, written
    as numbers are: another form (run.json.damaged-01) is the user's."""
    more = (f"{before}[1-9]{further * '[0-9]'}{after}" for further in range(1, digits))
    return (f"{before}[0-9]{after}", *more)


def set_aside(path: Path, why: str) -> Path:
    """Rename a file to NAME.WHY-1, or -2 and so on where something has that name; returns where it
    is now."""
    for number in count(1):
        aside = path.with_name(f"{path.name}.{why}-{number}")
        if not os.path.lexists(aside):
            break
    path.rename(aside)
    return aside


def remove(path: Path) -> None:
    """Delete a file or a directory tree if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


LARGEST_TEXT = 256 << 20
"""Bytes of a list of texts that is read whole."""


def check_regular(path: Path, *, error: type[TuneserveError] = UsageError, hint: str = "") -> None:
    """Raise the `error` with its `hint` for what is there and is no file, as a pipe or a device of
    which reading may have no end, and for what can be no path."""
    try:
        if not is_special(path):
            return
    except ValueError:  # a character that no name of a file has
        raise error(f"is no name of a file: {str(path)!a}", where="path", hint=hint) from None
    raise error("is no file but a device, a pipe or a stream", where=str(path), hint=hint)


def check_size(
    path: Path, most: int, *, error: type[TuneserveError] = UsageError, hint: str = ""
) -> None:
    """Raise the `error` with its `hint` for a file of more than `most` bytes. Raises OSError."""
    if (size := path.stat().st_size) > most:
        raise error(f"is too large ({human_bytes(size)})", where=str(path), hint=hint)


def read_text(
    path: Path, what: str = "file", *, newline: str | None = None, most: int | None = None
) -> str:
    """A text in UTF-8, with or without a byte order mark. `what` it is stands in the error. With
    `newline` '' the ends of lines stay as they are, else all become line feeds. With `most` it must
    be a file, of so many bytes at most, and no pipe or device.

    Raises UsageError if there is none, or it can't be read.
    """
    try:
        if most is not None:
            check_regular(path)
            check_size(path, most, hint=f"At most {human_bytes(most)} are read.")
        with path.open(encoding="utf-8-sig", newline=newline) as file:
            return file.read()
    except FileNotFoundError:
        raise UsageError(f"no such {what}", where=str(path)) from None
    except UnicodeDecodeError as error:
        raise UsageError(
            f"can't be read: not UTF-8 (byte {error.start + 1})", where=str(path)
        ) from error
    except OSError as error:
        raise UsageError(f"can't be read: {error.strerror}", where=str(path)) from error


def read_json(path: Path, what: str = "file", *, hint: str = "") -> dict[str, Any]:
    """The object in a JSON file. `what` it is and the `hint` stand in the error.

    Raises UsageError if there is no such file, it can't be read, or holds something else.
    """
    try:
        value = json.loads(read_text(path, what))
    except json.JSONDecodeError as error:
        raise UsageError(
            f"not valid JSON ({error.msg})", where=f"{path}:{error.lineno}", hint=hint
        ) from error
    except RecursionError:
        raise UsageError("not valid JSON (nested too deep)", where=str(path), hint=hint) from None
    if not isinstance(value, dict):
        raise UsageError("not a JSON object", where=str(path), hint=hint)
    return value


HALF_CHARACTER = "holds half of a surrogate pair, which is no character"


def is_encodable(value: Any) -> bool:
    """Can all characters of a JSON value be written? Escapes may stand for halves of one."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def write_text(path: Path, text: str, *, synced: bool = True) -> None:
    """Write `text` (UTF-8) so that a reader sees the old file or the new one, never a part.
    `synced` as for `atomic_path`."""
    with atomic_path(path, synced=synced) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any, *, synced: bool = True) -> None:
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n", synced=synced)


def write_jsonl(path: Path, rows: Iterator[Any] | list[Any]) -> None:
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's content, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_text(text: str) -> str:
    """SHA-256 of a text, in hex."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def home_directory() -> Path:
    """The user's. Raises TuneserveError if the system knows of none, as in a container that runs
    under a number without a name."""
    try:
        return Path.home()
    except RuntimeError as error:
        raise TuneserveError(
            "this user has no home directory",
            where="HOME",
            hint="Set HOME to a folder that can be written.",
        ) from error


def cache_directory() -> Path:
    """Where downloads and imported base models are kept: $TUNESERVE_CACHE, or the XDG cache. Raises
    TuneserveError if there is no place for it."""
    if chosen := os.environ.get("TUNESERVE_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or home_directory() / ".cache") / "tuneserve"
