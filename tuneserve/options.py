"""Command-line options derived from the settings models.

`@settings_options("serve")` gives a command one option per field of ServeSettings, and
`resolve_settings` layers what was said: defaults < the run's saved settings < the recipe < options.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

import click
from annotated_types import Ge, Gt, Le, Lt
from click.core import ParameterSource
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from tuneserve.recipe import load_recipe, validate
from tuneserve.settings import Recipe

Command = TypeVar("Command", bound=Callable[..., Any])


def section_model(section: str) -> type[BaseModel]:
    annotation = Recipe.model_fields[section].annotation
    assert isinstance(annotation, type)
    assert issubclass(annotation, BaseModel)
    return annotation


def settings_options(
    *sections: str, only: Collection[str] | None = None
) -> Callable[[Command], Command]:
    """Add an option for every field of the given recipe sections, or for those in `only`.

    Options are named after the field (`--gpu-layers`); where two of the sections share a field
    name, the later section's option carries the section as prefix (`--bench-ctx`).
    """

    def decorate(command: Command) -> Command:
        seen: set[str] = set()
        decorators = []
        for section in sections:
            for name, field in section_model(section).model_fields.items():
                if only is not None and name not in only:
                    continue
                option = name if name not in seen else f"{section}_{name}"
                seen.add(name)
                decorators.append(_option(section, name, option, field))
        for decorator in reversed(decorators):
            command = decorator(command)
        return command

    return decorate


def parameter_name(section: str, name: str) -> str:
    return f"setting__{section}__{name}"


def _option(section: str, name: str, option: str, field: FieldInfo) -> Callable[[Any], Any]:
    flag = option.replace("_", "-")
    kind, multiple, boolean = _click_type(field)
    declaration = f"--{flag}/--no-{flag}" if boolean else f"--{flag}"
    default = field.get_default()
    shown = ",".join(map(str, default)) if isinstance(default, tuple) else default
    help_text = (field.description or "") + (
        "" if default in (None, "") else f"  [{section}.{name}, default: {shown}]"
    )
    return click.option(
        declaration,
        parameter_name(section, name),
        type=None if boolean else kind,
        default=None,
        callback=_split_list if multiple else None,
        metavar="LIST" if multiple else None,
        help=help_text,
    )


def _split_list(_: click.Context, __: click.Parameter, value: str | None) -> tuple[str, ...] | None:
    return None if value is None else tuple(part.strip() for part in value.split(",") if part)


def _click_type(field: FieldInfo) -> tuple[Any, bool, bool]:
    """(click type, is a list, is a flag) of a settings field."""
    annotation = field.annotation
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        annotation = next(a for a in typing.get_args(annotation) if a is not type(None))
    origin = typing.get_origin(annotation)
    if origin is Literal:
        return click.Choice([str(a) for a in typing.get_args(annotation)]), False, False
    if origin is tuple:
        return str, True, False
    if annotation is bool:
        return bool, False, True
    if annotation is Path:
        return click.Path(path_type=Path), False, False
    if annotation is int:
        extra = field.json_schema_extra
        words = extra.get("words") if isinstance(extra, dict) else None
        number = _range(int, field)
        return (WordOrNumber(words, number) if words else number), False, False
    if annotation is float:
        return _range(float, field), False, False
    return str, False, False


class WordOrNumber(click.ParamType[int]):
    """An integer in a range, or one of a few words that stand for one."""

    def __init__(self, words: Any, number: click.IntRange) -> None:
        self._words: dict[str, int] = dict(words)
        self._number = number
        self.name = "|".join([*self._words, "INTEGER"])

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if value in self._words:
            return self._words[value]
        try:
            return int(self._number.convert(value, param, ctx))
        except click.BadParameter as error:
            words = ", ".join(f"'{word}'" for word in self._words)
            self.fail(f"{error.message} Or: {words}.", param, ctx)


def _range(kind: type[int] | type[float], field: FieldInfo) -> Any:
    low: Any = None
    high: Any = None
    low_open = high_open = False
    for bound in field.metadata:
        if isinstance(bound, Ge):
            low = bound.ge
        elif isinstance(bound, Gt):
            low, low_open = bound.gt, True
        elif isinstance(bound, Le):
            high = bound.le
        elif isinstance(bound, Lt):
            high, high_open = bound.lt, True
    range_type = click.IntRange if kind is int else click.FloatRange
    return range_type(min=low, max=high, min_open=low_open, max_open=high_open)


def given_options(context: click.Context) -> dict[str, dict[str, Any]]:
    """The settings given on the command line, as nested tables."""
    given: dict[str, dict[str, Any]] = {}
    for parameter, value in context.params.items():
        if not parameter.startswith("setting__") or value is None:
            continue
        if context.get_parameter_source(parameter) is ParameterSource.DEFAULT:
            continue
        _, section, name = parameter.split("__", 2)
        given.setdefault(section, {})[name] = value
    return given


def resolve_settings(
    context: click.Context,
    *,
    saved: Mapping[str, Mapping[str, Any]] | None = None,
    recipe: Path | None = None,
) -> Recipe:
    """Settings in force: defaults < `saved` (of the run) < the recipe file < given options."""
    layers = [saved or {}, load_recipe(recipe) if recipe else {}, given_options(context)]
    tables: dict[str, dict[str, Any]] = {}
    for layer in layers:
        for section, values in layer.items():
            tables.setdefault(section, {}).update(values)
    return validate(tables, where="settings")
