"""Command-line options derived from the settings models.

`@settings_options("serve")` gives a command one option per field of ServeSettings,
`resolve_settings` layers what was said: defaults < the run's saved settings < the recipe < options,
and `as_options` gives the options that say the same as some settings.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import click
from click.core import ParameterSource
from pydantic import BeforeValidator
from pydantic.fields import FieldInfo

from tuneserve.console import say
from tuneserve.foreign import is_of_a_run, named_by_others, require_own
from tuneserve.recipe import as_written, least_number, load_recipe, nearest, section_model, validate
from tuneserve.settings import AUTO_ONLY, BenchSettings, Recipe, ServeSettings

Command = TypeVar("Command", bound=Callable[..., Any])

OptionNames = dict[tuple[str, str], str]
"""Section and field to the option's name"""

# Where and for whom a server listens and what it logs; the benchmark starts its own.
OF_THE_SERVER_ALONE = {
    "host", "port", "insecure", "replicas", "api_key_file", "tls_cert", "tls_key", "allowed_hosts",
    "cors_origins", "log", "log_prompts", "max_bodies", "max_json_depth", "max_json_containers",
    "max_json_values", "max_text", "max_url", "max_header_bytes", "max_headers", "max_connections",
    "max_client_connections", "send_seconds",
    "system", "adapter_dir", "max_adapters", "adapter_memory", "admin_key_file", "batch_dir",
    "batch_storage",
}  # fmt: skip
BENCH_FIELDS = {*BenchSettings.model_fields, *ServeSettings.model_fields} - OF_THE_SERVER_ALONE
"""What `tuneserve bench` has options for, of the sections 'bench' and 'serve'."""
PREFLIGHT_SETTINGS = ("preflight", "converter", "quantization")
"""Of [convert], what is asked before training."""


def option_names(sections: Sequence[str], only: Collection[str] | None = None) -> OptionNames:
    """The option's name ('gpu_layers') of every field of the given recipe sections, or of those in
    `only`: that of the field, or where an earlier section has a field of that name the section's
    and the field's ('serve_ctx')."""
    names: dict[tuple[str, str], str] = {}
    taken: set[str] = set()
    for section in sections:
        for name in section_model(section).model_fields:
            if only is None or name in only:
                names[section, name] = name if name not in taken else f"{section}_{name}"
                taken.add(name)
    return names


def settings_options(
    *sections: str, only: Collection[str] | None = None
) -> Callable[[Command], Command]:
    """Add an option for every field of the given recipe sections, or for those in `only`; they are
    named by `option_names`."""

    def decorate(command: Command) -> Command:
        for (section, name), option in reversed(option_names(sections, only).items()):
            field = section_model(section).model_fields[name]
            command = _option(section, name, option, field)(command)
        return command

    return decorate


def as_options(settings: Recipe, names: OptionNames, *others: Recipe) -> list[str]:
    """The command line options (of those with `names`) that give these settings: one for every
    setting that is not the default, or not what it is in one of the `others`."""
    words: list[str] = []
    for (section, name), option in names.items():
        values = [getattr(getattr(recipe, section), name) for recipe in (settings, *others)]
        default = section_model(section).model_fields[name].get_default()
        value = values[0]
        if all(value == other for other in (default, *values)):
            continue
        flag = _flag(option)
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            written = as_written(section, name, value)
            text = ",".join(map(str, written)) if isinstance(written, tuple) else str(written)
            words += [f"--{flag}", text]
    return words


def _flag(option: str) -> str:
    return option.replace("_", "-")


def parameter_name(section: str, name: str) -> str:
    return f"setting__{section}__{name}"


def _option(section: str, name: str, option: str, field: FieldInfo) -> Callable[[Any], Any]:
    flag = _flag(option)
    kind = field.annotation
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        kind = next(a for a in typing.get_args(kind) if a is not type(None))
    multiple = typing.get_origin(kind) is tuple
    declaration = f"--{flag}/--no-{flag}" if kind is bool else f"--{flag}"
    default = field.get_default()
    shown = ",".join(map(str, default)) if isinstance(default, tuple) else default
    help_text = (field.description or "") + (
        "" if default in (None, "") else f"  [{section}.{name}, default: {shown}]"
    )
    return click.option(
        declaration,
        parameter_name(section, name),
        type=_click_type(kind, field),
        default=None,
        callback=_split_list if multiple else None,
        multiple=multiple,
        metavar="LIST" if multiple else None,
        help=help_text,
    )


def _split_list(_: click.Context, __: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    """The option's values, given with commas between them, or again and again."""
    return tuple(part.strip() for value in values for part in value.split(",") if part)


def _click_type(kind: Any, field: FieldInfo) -> Any:
    """click's type for a setting of this kind; None leaves a flag to click."""
    if typing.get_origin(kind) is Literal:
        checks = [one.func for one in field.metadata if isinstance(one, BeforeValidator)]
        return Words([str(value) for value in typing.get_args(kind)], checks)
    if kind is bool:
        return None
    if kind is Path:
        return click.Path(path_type=Path)
    if kind is int:
        extra = field.json_schema_extra
        words = extra.get("words") if isinstance(extra, dict) else None
        number = _range(int, field)
        return WordOrNumber(words, number) if words else number
    return _range(float, field) if kind is float else str


class Words(click.Choice[str]):
    """One of a few words, in upper or lower case. `checks` are the setting's own, which may have a
    reason for a word that is none of them."""

    def __init__(self, choices: Sequence[str], checks: Sequence[Callable[..., Any]] = ()) -> None:
        super().__init__(choices, case_sensitive=False)
        self._checks = checks

    def get_invalid_choice_message(self, value: Any, ctx: click.Context | None) -> str:
        for check in self._checks:
            try:
                check(value)
            except ValueError as error:
                return f"{error} (got {value!r})"
        return f"{value!r} is none of the words: {nearest(str(value), list(self.choices))}"


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


def bounds(field: FieldInfo) -> dict[str, Any]:
    """The bounds of a number that a user writes: 'ge', 'gt', 'le', 'lt', as far as it has them."""
    names = ("ge", "gt", "le", "lt")
    found = {n: getattr(bound, n) for bound in field.metadata for n in names if hasattr(bound, n)}
    least = least_number(field)
    return found if least is None else {**found, "ge": least}


def _range(kind: type[int] | type[float], field: FieldInfo) -> Any:
    found = bounds(field)
    range_type = click.IntRange if kind is int else click.FloatRange
    return range_type(
        min=found.get("ge", found.get("gt")), max=found.get("le", found.get("lt")),
        min_open="gt" in found, max_open="lt" in found,
    )  # fmt: skip


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
    """Settings in force: defaults < `saved` (of the run) < the recipe file < given options.

    Raises UsageError where `saved`, or a recipe that came with a run, says what reaches out of the
    run and this user did not say it (see tuneserve/foreign.py).
    """
    given = given_options(context)
    loaded = load_recipe(recipe) if recipe else {}
    layers = [saved or {}, loaded, given]
    tables: dict[str, dict[str, Any]] = {}
    foreign: dict[str, dict[str, Any]] = {}
    own: list[Mapping[str, Mapping[str, Any]]] = [given]
    theirs = recipe is not None and is_of_a_run(recipe)
    if not theirs:
        own.insert(0, loaded)
    for layer in layers:
        _leave_superseded_out(tables.get("convert", {}), layer.get("convert", {}))
        for section, values in layer.items():
            tables.setdefault(section, {}).update(values)
            if layer is layers[0] or (layer is loaded and theirs):
                foreign.setdefault(section, {}).update(values)
    _require_own(context, foreign, own, source=str(recipe) if theirs else "run.json")
    return validate(tables, where="settings")


def _require_own(
    context: click.Context,
    foreign: Mapping[str, Mapping[str, Any]],
    own: Sequence[Mapping[str, Mapping[str, Any]]],
    source: str,
) -> None:
    """Only settings that the command has options for do anything in it."""
    used = {
        tuple(name.split("__", 2)[1:]) for name in context.params if name.startswith("setting__")
    }
    asked = {
        section: {name: value for name, value in values.items() if (section, name) in used}
        for section, values in foreign.items()
    }
    defaults = Recipe().model_dump(mode="json")
    named = named_by_others(asked, own, defaults)
    allowed = bool(context.params.get("allow_code"))
    for one in require_own(named, source, allow_code=allowed):
        say(f"--allow-code: {source} says {one}")


def _leave_superseded_out(below: dict[str, Any], above: Mapping[str, Any]) -> None:
    """Take out of a lower layer's [convert] what a quantization or a limit in the one above it
    makes meaningless."""
    names: list[str] = []
    if str(above.get("quantization", "auto")).lower() != "auto":
        names += AUTO_ONLY
    names += ["max_divergence"] if "size_limit" in above else []
    names += ["size_limit"] if "max_divergence" in above else []
    for name in names:
        below.pop(name, None)
