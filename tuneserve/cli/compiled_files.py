"""Which files compilers made in their folders of the cache: whatever else is there stays."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

# Unsloth writes it behind the versions at the head of every module that it generates.
_GENERATED = b"\n__UNSLOTH_VERSIONING__\n"
_HEAD_BYTES = 256
_COPIED = ("moe_utils.py",)
# SHA-256 in base 32, in a file's name or its folder's; or a file that a kill left half-written.
_HASHED = re.compile(r"[a-z2-7]{50,}")
_HALF_WRITTEN = re.compile(r"\.[0-9]+\.[0-9]+\.tmp")


def made_by_unsloth(folder: Path) -> list[Path]:
    """Modules that Unsloth generated or copied there, their bytecode and lock files."""
    return [path for path in _files(folder) if _is_unsloths(path, path.relative_to(folder).parts)]


def _is_unsloths(path: Path, parts: tuple[str, ...]) -> bool:
    match parts:
        case (name,) if name.endswith(".py"):
            return name in _COPIED or _is_generated(path)
        case ("__pycache__", name):
            return name.endswith(".pyc")
        case (".locks", name):
            return name.startswith(".lock.")
    return False


def _is_generated(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    return head.startswith(b'"""\n') and _GENERATED in head


def made_by_inductor(folder: Path) -> list[Path]:
    """What torch's compiler keeps: under hashes, in folders by their first letters or by kind."""
    return [
        path
        for path in _files(folder)
        if any(map(_HASHED.search, path.relative_to(folder).parts))
        or _HALF_WRITTEN.fullmatch(path.name)
    ]


def _files(folder: Path) -> Iterator[Path]:
    """Files below a folder, in order; links are not followed, and are none."""
    return (path for path in sorted(folder.rglob("*")) if path.is_file() and not path.is_symlink())
