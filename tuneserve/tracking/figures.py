"""A stage's result in run.json as figures and hashes with names."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

# What MLflow takes in a name.
_NOT_IN_NAMES = re.compile(r"[^\w\-. :/]")
_HASH = re.compile(r"[0-9a-f]{64}")
# Settings are tracked as such, and paths and curves are no figures.
_LEFT_OUT = frozenset({"settings", "losses"})
_LONGEST_WORDS = 300


def figures_of(result: Mapping[str, Any]) -> tuple[dict[str, float], dict[str, str]]:
    """The finite numbers of a result (true and false are 1 and 0) and its hashes and short texts,
    by where they stand ('held_out/eval/loss'). Of lists only checks are taken, by what they
    check."""
    figures: dict[str, float] = {}
    texts: dict[str, str] = {}
    for name, value in _leaves(result, ""):
        if isinstance(value, bool | int | float):
            if math.isfinite(value):
                figures[name] = float(value)
        elif _HASH.fullmatch(value) or ("\n" not in value and len(value) <= _LONGEST_WORDS):
            texts[name] = value
    return figures, texts


def _leaves(value: Any, place: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if place or key not in _LEFT_OUT:
                yield from _leaves(inner, f"{place}/{key}" if place else str(key))
    elif isinstance(value, list):
        for inner in value:
            if isinstance(inner, Mapping) and "contract" in inner:
                yield from _leaves(_of_check(inner), f"{place}/{inner['contract']}")
    elif isinstance(value, bool | int | float | str):
        yield tracked_name(place), value


def tracked_name(name: str) -> str:
    """A figure's name in the characters that every tracker takes: 'memory, GiB' as 'memory GiB'."""
    return _NOT_IN_NAMES.sub("_", name.replace(", ", " "))


def _of_check(check: Mapping[str, Any]) -> dict[str, Any]:
    return {"passed": check.get("passed"), **check.get("figures", {})}


def settings_of(tables: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """A recipe's settings as text, by name ('train.r')."""
    return {
        f"{table}.{name}": str(value) for table, values in tables.items()
        for name, value in values.items()
    }  # fmt: skip
