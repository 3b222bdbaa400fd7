"""Optional dependencies: which extra of the package a command needs, and what of it is missing.

pyproject.toml is the only list; it is read back from the metadata of the installed package.
"""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Iterator

from tuneserve.errors import UsageError

DISTRIBUTION = "tuneserve"


def require_extra(extra: str, purpose: str) -> None:
    """Raise UsageError if a package of `extra` is not installed. `purpose`: 'training', …"""
    if missing := missing_packages(extra):
        raise UsageError(
            f"{purpose} needs packages that are not installed ({', '.join(missing)}): "
            f"pip install '{DISTRIBUTION}[{extra}]'"
        )


def missing_packages(extra: str) -> list[str]:
    """The packages of an extra that are not installed, in pyproject.toml's order.

    Empty in a checkout that is not installed itself, which has no metadata.
    """
    return [name for name in _packages(extra) if installed_version(name) is None]


def _packages(extra: str) -> Iterator[str]:
    try:
        requirements = importlib.metadata.requires(DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:
        return
    for requirement in requirements:
        needed, _, marker = requirement.partition(";")
        if not re.search(rf"extra == [\"']{re.escape(extra)}[\"']", marker):
            continue
        name, _, extras = needed.strip().partition("[")
        if name == DISTRIBUTION:
            for other in extras.partition("]")[0].split(","):
                yield from _packages(other.strip())
        elif found := re.match(r"[\w.-]+", name):
            yield found[0]


def installed_version(package: str) -> str | None:
    """The version of a package, None if it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
