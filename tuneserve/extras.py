"""Optional dependencies: which extra of the package a command needs, and what of it is missing.

pyproject.toml is the only list; it is read back from the metadata of the installed package.
"""

from __future__ import annotations

import importlib.metadata
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

from tuneserve.errors import UsageError

DISTRIBUTION = "tuneserve"
_PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"


def require_extra(extra: str, purpose: str) -> None:
    """Raise UsageError if a package of `extra` is not installed. `purpose`: 'training', …"""
    if missing := missing_packages(extra):
        raise UsageError(
            f"{purpose} needs more packages: pip install '{DISTRIBUTION}[{extra}]' "
            f"(not installed: {', '.join(missing)})"
        )


def missing_packages(extra: str) -> list[str]:
    """The packages of an extra that are not installed, in pyproject.toml's order."""
    return [name for name in _packages(extra) if installed_version(name) is None]


def _packages(extra: str) -> Iterator[str]:
    for requirement in _requirements(extra):
        name, _, extras = requirement.strip().partition("[")
        if name == DISTRIBUTION:
            for other in extras.partition("]")[0].split(","):
                yield from _packages(other.strip())
        elif found := re.match(r"[\w.-]+", name):
            yield found[0]


def _requirements(extra: str) -> list[str]:
    try:
        requirements = importlib.metadata.requires(DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:  # a checkout that is not installed
        project = tomllib.loads(_PYPROJECT.read_text(encoding="utf-8"))["project"]
        return list(project["optional-dependencies"].get(extra, []))
    marker = re.compile(rf"extra == [\"']{re.escape(extra)}[\"']")
    return [needed.partition(";")[0] for needed in requirements if marker.search(needed)]


def leave_out(*modules: str) -> None:
    """Let other libraries find these modules missing: they import what is there, which takes
    seconds, for work that this process does not do. To be called before any of them is imported."""
    for name in modules:
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]


def installed_version(package: str) -> str | None:
    """The version of a package, None if it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
