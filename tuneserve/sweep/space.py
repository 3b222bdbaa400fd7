"""What a sweep varies: settings of a recipe, each with a list of values or a range."""

from __future__ import annotations

import json
import math
import re
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from tuneserve.errors import UsageError
from tuneserve.recipe import nearest, section_model, validate
from tuneserve.settings import Recipe

Tables = Mapping[str, Mapping[str, Any]]
Chosen = dict[str, str | int | float]
"""What the search chose, by the setting's key: a listed value as text, or a number of a range."""

# Beside [train]: what changes neither the held-out examples nor how their loss is measured.
_OTHERS = (("model", "load_in_4bit"), ("data", "balance"), ("data", "replay"))
_FIXED = {
    "evaluations": "trials are compared at the same evaluations",
    "record_eval_losses": "it changes no training",
    "gpus": "it changes no training",
}
_LOG_FROM = 10.0  # ratio of a range's bounds
_DIGITS = 4
_RANGE = re.compile(r"(.+?)\.\.(.+?)(?::(log|linear))?")


@dataclass(frozen=True)
class Axis:
    """A setting, with its `values` as JSON, or with the bounds of a range, in which numbers are
    drawn evenly, or evenly in their logarithms (`log`)."""

    section: str
    name: str
    values: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    whole: bool = False

    @property
    def key(self) -> str:
        return f"{self.section}.{self.name}"

    @property
    def texts(self) -> tuple[str, ...]:
        """The listed values as text."""
        return tuple(map(text_of, self.values))

    def holds(self, value: Any) -> bool:
        """Is this setting's value (as JSON) one of them?"""
        if self.values:
            return value in self.values
        return isinstance(value, int | float) and self.low <= value <= self.high

    def setting(self, chosen: str | int | float) -> Any:
        """What was chosen as a recipe has it; numbers of a range to four digits."""
        if self.values:
            return self.values[self.texts.index(str(chosen))]
        if self.whole:
            return int(chosen)
        return min(max(float(f"{chosen:.{_DIGITS}g}"), self.low), self.high)

    def chosen(self, value: Any) -> str | int | float:
        """A setting's value as the search chooses it."""
        return text_of(value) if self.values else value

    def __str__(self) -> str:
        if self.values:
            return f"{self.key}={','.join(self.texts)}"
        return f"{self.key}={self.low:g}..{self.high:g}" + (":log" if self.log else ":linear")


def text_of(value: Any) -> str:
    """A setting's value, as JSON has it, in the form in which --over takes it."""
    if isinstance(value, list):
        return "+".join(map(str, value))
    return value if isinstance(value, str) else json.dumps(value)


def parse_axes(texts: Sequence[str], tables: Tables) -> list[Axis]:
    """The settings that `--over SECTION.KEY=VALUES` name, for a recipe's `tables`.

    Raises UsageError for what is no setting, can't be swept, or has a value out of its bounds.
    """
    axes = [_parse(text, tables) for text in texts]
    if not axes:
        raise UsageError(
            "nothing to vary", where="--over", hint="Say what: --over train.learning_rate=1e-4,5e-4"
        )
    keys = [axis.key for axis in axes]
    if twice := next((key for key in keys if keys.count(key) > 1), None):
        raise UsageError("is given twice", where=f"--over {twice}", hint="Give it one list.")
    return axes


def _parse(text: str, tables: Tables) -> Axis:
    key, separator, values = text.partition("=")
    section, dot, name = key.strip().partition(".")
    if not (separator and dot and values.strip()):
        raise UsageError(
            "write SECTION.KEY=VALUES, as train.r=8,16 or train.learning_rate=1e-5..1e-3",
            where=f"--over {text}",
        )
    axis = Axis(section, name)
    _check_key(axis)
    if found := _RANGE.fullmatch(values.strip()):
        return _range(axis, *found.groups(), tables=tables)
    parts = [part.strip() for part in values.split(",") if part.strip()]
    allowed: list[Any] = []
    for part in parts:
        value = _checked(axis, _as_written(axis, part), tables)
        if value not in allowed:
            allowed.append(value)
    if len(allowed) < 2:
        raise UsageError(
            "has one value: nothing is to be chosen",
            where=f"--over {axis.key}",
            hint="Give several between commas or a range, or put the one value into the recipe.",
        )
    return replace(axis, values=tuple(allowed))


def _check_key(axis: Axis) -> None:
    where = f"--over {axis.key}"
    if axis.section not in Recipe.model_fields:
        known = nearest(axis.section, list(Recipe.model_fields))
        raise UsageError(f"unknown table '{axis.section}' ({known})", where=where)
    names = list(section_model(axis.section).model_fields)
    if axis.name not in names:
        raise UsageError(f"unknown key '{axis.key}' ({nearest(axis.name, names)})", where=where)
    if axis.section == "train" and axis.name in _FIXED:
        raise UsageError(f"is not to be varied: {_FIXED[axis.name]}", where=where)
    if axis.section != "train" and (axis.section, axis.name) not in _OTHERS:
        others = ", ".join(".".join(one) for one in _OTHERS)
        raise UsageError(
            "is not to be varied: trials are compared by the loss on the same held-out examples, "
            "which it changes or which does not depend on it. Those of [train] are, and "
            f"{others}",
            where=where,
        )


def _range(axis: Axis, low: str, high: str, scale: str | None, *, tables: Tables) -> Axis:
    where = f"--over {axis.key}"
    kind = _kind(axis)
    if kind not in (int, float):
        raise UsageError("is no number: give a list of values, not a range", where=where)
    ends = [float(_checked(axis, text.strip(), tables)) for text in (low, high)]
    if not ends[0] < ends[1]:
        raise UsageError("a range goes from a smaller number to a larger one", where=where)
    log = scale == "log" or (scale is None and 0 < ends[0] <= ends[1] / _LOG_FROM)
    if log and ends[0] <= 0:
        raise UsageError("a logarithmic range begins above 0", where=where)
    return replace(axis, low=ends[0], high=ends[1], log=log, whole=kind is int)


def _kind(axis: Axis) -> Any:
    kind = section_model(axis.section).model_fields[axis.name].annotation
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        kind = next(a for a in typing.get_args(kind) if a is not type(None))
    return kind


def _as_written(axis: Axis, text: str) -> str | list[str]:
    """A value as a recipe would have it: of a list of names, those between '+'."""
    return text.split("+") if typing.get_origin(_kind(axis)) is tuple else text


def _checked(axis: Axis, value: Any, tables: Tables) -> Any:
    """The value as JSON. Raises UsageError if the recipe can't have it."""
    changed = with_setting(tables, axis.section, axis.name, value)
    recipe = validate(changed, where="--over")
    return recipe.model_dump(mode="json")[axis.section][axis.name]


def with_setting(tables: Tables, section: str, name: str, value: Any) -> dict[str, dict[str, Any]]:
    """A recipe's tables with one setting changed."""
    found = {table: dict(values) for table, values in tables.items()}
    found.setdefault(section, {})[name] = value
    return found


def with_chosen(tables: Tables, axes: Sequence[Axis], chosen: Chosen) -> dict[str, dict[str, Any]]:
    """A recipe's tables with what the search chose."""
    found = {table: dict(values) for table, values in tables.items()}
    for axis in axes:
        if axis.key in chosen:
            found = with_setting(found, axis.section, axis.name, axis.setting(chosen[axis.key]))
    return found


def own_values(axes: Sequence[Axis], recipe: Recipe) -> dict[str, Any]:
    """The recipe's own values of these settings, as JSON, by key."""
    settings = recipe.model_dump(mode="json")
    return {axis.key: settings[axis.section][axis.name] for axis in axes}


def combinations(axes: Sequence[Axis]) -> int | None:
    """How many combinations of values there are; None where one is a range."""
    if not all(axis.values for axis in axes):
        return None
    return math.prod(len(axis.values) for axis in axes)


def all_chosen(axes: Sequence[Axis]) -> list[Chosen]:
    """Every combination of listed values."""
    found = product(*(axis.texts for axis in axes))
    return [dict(zip([axis.key for axis in axes], texts, strict=True)) for texts in found]
