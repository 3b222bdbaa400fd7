"""Which settings differ between two sets of them, in words."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import ValidationError

from tuneserve.settings import Recipe

Tables = Mapping[str, Mapping[str, Any]]


def changed_settings(before: Tables, now: Tables) -> list[str]:
    """The settings of the tables in `now` that were others `before`, by name, as JSON values."""
    return [
        f"{table}.{name} was {_shown(before.get(table, {}), name)}, is {_shown(now[table], name)}"
        for table in sorted(now)
        for name in sorted(before.get(table, {}).keys() | now[table].keys())
        if before.get(table, {}).get(name, ...) != now[table].get(name, ...)
    ]


def changed_values(before: Tables, now: Tables) -> list[str]:
    """`changed_settings` among those that `now` has."""
    known = {
        table: {name: value for name, value in before.get(table, {}).items() if name in values}
        for table, values in now.items()
    }
    return changed_settings(known, now)


def with_defaults(saved: Tables) -> dict[str, dict[str, Any]]:
    """Saved settings as JSON, and the defaults for what an earlier release did not know. Tables
    that today's release would refuse stay as they are."""
    try:
        return Recipe.model_validate(saved).model_dump(mode="json")
    except ValidationError:
        return {table: dict(values) for table, values in saved.items()}


def changed_since(saved: Tables, recipe: Recipe, tables: Iterable[str]) -> list[str]:
    """The settings of some tables of a recipe that are not as a run has saved them."""
    now = recipe.model_dump(mode="json", include=set(tables))
    return changed_settings(with_defaults(saved), now)


def _shown(table: Mapping[str, Any], name: str) -> str:
    return json.dumps(table[name], ensure_ascii=False) if name in table else "not a setting"
