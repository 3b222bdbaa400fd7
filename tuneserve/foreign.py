"""Settings that reach out of a run, and whose word they are.

Runs are handed on, and nobody reads run.json. A setting that runs code, sends something away, opens
the server or writes elsewhere therefore counts only if this user said it: on the command line, or
in a recipe that --config names and that lies in no run directory.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuneserve.errors import UsageError
from tuneserve.files import is_special

Tables = Mapping[str, Mapping[str, Any]]
CODE = "runs code"
_SENDS = "sends prompts, and the key in OPENAI_API_KEY, there"
_TRACKS = "sends settings and figures there"
_OPENS = "says whom the server answers"
_WRITES = "writes there"
REACHING_OUT = {
    ("bench", "scorer"): CODE,
    ("convert", "converter"): CODE,
    ("bench", "endpoint"): _SENDS,
    ("bench", "judge"): _SENDS,
    ("tracking", "track_address"): _TRACKS,
    ("tracking", "track_online"): _TRACKS,
    ("serve", "host"): _OPENS,
    ("serve", "allowed_hosts"): _OPENS,
    ("serve", "cors_origins"): _OPENS,
    ("serve", "insecure"): _OPENS,
    ("serve", "api_key_file"): _OPENS,
    ("serve", "admin_key_file"): _OPENS,
    ("serve", "tls_cert"): _OPENS,
    ("serve", "tls_key"): _OPENS,
    ("serve", "adapter_dir"): "serves what lies there",
    ("serve", "batch_dir"): _WRITES,
    ("serve", "prefix_directory"): _WRITES,
    ("serve", "prefix_disk"): "keeps what prompts begin with on the disk",
    ("serve", "log_prompts"): "writes prompts and answers into the log",
    ("serve", "replicas"): "starts that many servers",
}
"""(section, field) of every setting that reaches out of the run, and what it does."""


@dataclass(frozen=True)
class Named:
    """A setting that reaches out, with the value that a run's file gives it."""

    section: str
    name: str
    value: Any

    @property
    def does(self) -> str:
        return REACHING_OUT[self.section, self.name]

    def __str__(self) -> str:
        return f"{self.section}.{self.name} = {self.value!r} {self.does}"


def check_plain(run: Path) -> None:
    """Raise UsageError if a run holds a pipe, a socket, a device or a link to one: what reads it
    may wait for ever."""
    found = (Path(folder, name) for folder, _, names in os.walk(run) for name in names)
    if special := sorted(str(path) for path in found if not _is_regular(path) and is_special(path)):
        raise UsageError(
            "holds what is no file (a pipe, a device, a socket)",
            where=str(run),
            problems=special,
            hint="Remove it.",
        )


def _is_regular(path: Path) -> bool:
    """Is it a file, and no link to one? Most are, and are looked at no further."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except OSError:  # it was removed meanwhile
        return False


def check_own_folders(run: Path) -> None:
    """Raise UsageError where a folder of a run is a link that leads out of it: stages replace and
    delete what lies in their folders. Links to files are only ever replaced themselves."""
    root = run.resolve()
    folders = (Path(folder, name) for folder, names, _ in os.walk(run) for name in names)
    if linked := sorted(
        f"{path} -> {path.resolve()}"
        for path in folders
        if path.is_symlink() and not path.resolve().is_relative_to(root)
    ):
        raise UsageError(
            "has a link to a folder elsewhere, in which files would be replaced and deleted",
            where=str(run),
            problems=linked,
            hint="Put a folder in the link's place. To keep a run on another disk, link the run's "
            "whole folder, or the folder of all runs.",
        )


def leads_nowhere(path: Path) -> bool:
    """Is it a link to nothing, or to itself?"""
    if not path.is_symlink():
        return False
    try:
        path.stat()
    except PermissionError:  # there is something
        return False
    except OSError:
        return True
    return False


def is_of_a_run(path: Path) -> bool:
    """Does this file lie in a run directory, and so comes with the run?"""
    return any((folder / "run.json").is_file() for folder in path.resolve().parents)


def named_by_others(foreign: Tables, own: Sequence[Tables], defaults: Tables) -> list[Named]:
    """The settings that reach out and that only `foreign` tables give another value than the
    default, no table of this user's `own`."""
    return [
        Named(section, name, foreign[section][name])
        for section, name in REACHING_OUT
        if name in foreign.get(section, {})
        and _plain(foreign[section][name]) != _plain(defaults[section][name])
        and not any(name in tables.get(section, {}) for tables in own)
        and _matters(section, name, [foreign, *own])
    ]


def require_own(named: Iterable[Named], source: str, *, allow_code: bool) -> list[Named]:
    """What of `named` may be used: code, if this user allows it. Raises UsageError for the rest,
    with each setting and its value."""
    found = list(named)
    refused = [one for one in found if not (allow_code and one.does == CODE)]
    if refused:
        options = " ".join(f"--{one.name.replace('_', '-')}" for one in refused)
        code = any(one.does == CODE for one in refused)
        raise UsageError(
            "this file came with the run, and what it says reaches out of the run",
            where=source,
            problems=[str(one) for one in refused],
            hint="If that is what you want, say it yourself: --config with the recipe that you "
            f"trained by, or {options}"
            + (". Code also runs with --allow-code: read it first." if code else "."),
        )
    return found


def _plain(value: Any) -> Any:
    """As JSON has it: settings may come as tuples too."""
    return list(value) if isinstance(value, tuple) else value


def _matters(section: str, name: str, layers: Sequence[Tables]) -> bool:
    """Is the setting used? A scorer that no task asks for is not."""
    if (section, name) != ("bench", "scorer"):
        return True
    bench = {key: value for tables in layers for key, value in tables.get("bench", {}).items()}
    tasks = bench.get("tasks", ())
    return bench.get("task") == "python" or any(str(one).endswith("=python") for one in tasks)
