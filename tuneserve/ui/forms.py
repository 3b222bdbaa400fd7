"""The forms that start a stage: the fields of the settings as JSON, what a run has them at, and
what was filled in as a recipe."""

from __future__ import annotations

import types
import typing
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic.fields import FieldInfo

from tuneserve.changes import with_defaults
from tuneserve.errors import UsageError
from tuneserve.foreign import REACHING_OUT
from tuneserve.options import BENCH_FIELDS, PREFLIGHT_SETTINGS, bounds, option_names
from tuneserve.outputs import check_output, write_output
from tuneserve.recipe import load_recipe, section_model, validate
from tuneserve.recipe_text import CHANGED_FIRST, recipe_text
from tuneserve.run import RunDirectory, runs_directory
from tuneserve.settings import Recipe

Tables = dict[str, dict[str, Any]]
BEGIN = "# Recipe of `tuneserve ui`"
"""What a recipe begins with that was written here, and may be replaced."""
_HEADING = (
    f"{BEGIN[2:]}: the form replaces it when it starts a stage of this run. Every setting:\n"
    "docs/settings.md."
)
# What is asked first, beside the settings that are changed first.
_ALWAYS_FIRST = {"model": ("base", "max_seq_length"), "data": ("file",)}


@dataclass(frozen=True)
class Form:
    """Settings that a stage has options for (`only` some of the sections' fields), and its flags
    with what they do."""

    sections: tuple[str, ...]
    only: Mapping[str, Collection[str]]
    flags: Mapping[str, str]

    def names(self) -> dict[tuple[str, str], str]:
        """The option's name by section and field."""
        return {
            (section, name): option
            for (section, name), option in option_names(self.sections).items()
            if name in self.only.get(section, (name,))
        }


_FORCE = {"force": "Replace what an earlier run of this stage made."}
FORMS = {
    "train": Form(
        ("model", "data", "train", "convert"), {"convert": PREFLIGHT_SETTINGS}, _FORCE
    ),
    "convert": Form(("convert",), {}, _FORCE),
    "bench": Form(
        ("bench", "serve"),
        {"bench": BENCH_FIELDS, "serve": BENCH_FIELDS},
        {**_FORCE, "rescore": "Make the report anew of what is measured already."},
    ),
}  # fmt: skip


def described(stage: str) -> dict[str, Any]:
    """The form as JSON: its flags, and each section with its fields."""
    form = _form(stage)
    sections: dict[str, list[dict[str, Any]]] = {}
    for (section, name), option in form.names().items():
        field = section_model(section).model_fields[name]
        first = name in (*_ALWAYS_FIRST.get(section, ()), *CHANGED_FIRST.get(section, ()))
        sections.setdefault(section, []).append(
            {"name": name, "option": option.replace("_", "-"), "first": first, **_shape(field)}
        )
    return {
        "stage": stage,
        "flags": [{"name": name, "does": does} for name, does in form.flags.items()],
        "sections": [
            {"name": name, "about": (section_model(name).__doc__ or "").strip(), "fields": fields}
            for name, fields in sections.items()
        ],
    }


def _form(stage: str) -> Form:
    if stage not in FORMS:
        raise UsageError(f"no such stage; there are: {', '.join(FORMS)}", where=stage)
    return FORMS[stage]


def _shape(field: FieldInfo) -> dict[str, Any]:
    """A setting's description, default and what it may be."""
    kind, optional = _without_none(field.annotation)
    extra = field.json_schema_extra
    default = field.get_default()
    found: dict[str, Any] = {
        "about": field.description or "",
        "default": list(default) if isinstance(default, tuple) else _plain(default),
        "optional": optional,
        "bounds": bounds(field),
        "words": extra.get("words", {}) if isinstance(extra, dict) else {},
    }
    if typing.get_origin(kind) is Literal:
        return {**found, "kind": "choice", "choices": list(typing.get_args(kind))}
    if typing.get_origin(kind) is tuple:
        numbers = typing.get_args(kind)[0] is not str
        return {**found, "kind": "numbers" if numbers else "list"}
    names = {bool: "switch", int: "integer", float: "number"}
    return {**found, "kind": names.get(kind, "text")}


def _without_none(annotation: Any) -> tuple[Any, bool]:
    """A type without None, and whether None was among it."""
    if typing.get_origin(annotation) not in (typing.Union, types.UnionType):
        return annotation, False
    (kind,) = (one for one in typing.get_args(annotation) if one is not type(None))
    return kind, True


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value


def start_values(stage: str, run: RunDirectory | None) -> Tables:
    """What the form begins with: the defaults, and for a run what it was made with. What reaches
    out of a run is this user's to say (tuneserve/foreign.py), and is not taken from there."""
    defaults: Tables = Recipe().model_dump(mode="json")
    saved = with_defaults(run.saved_settings()) if run is not None and run.root.is_dir() else {}
    return {
        section: {
            name: defaults[section][name]
            if (section, name) in REACHING_OUT
            else saved.get(section, {}).get(name, defaults[section][name])
            for name in (field for part, field in _form(stage).names() if part == section)
        }
        for section in _form(stage).sections
    }


def values_of_recipe(stage: str, path: Path) -> Tables:
    """The form's settings as a recipe has them. Raises UsageError for one that is wrong."""
    full: Tables = validate(load_recipe(path), where=str(path)).model_dump(mode="json")
    return {
        section: {
            name: full[section][name] for part, name in _form(stage).names() if part == section
        }
        for section in _form(stage).sections
    }


def recipe_path(run: RunDirectory) -> Path:
    """The recipe that the forms of a run write: beside the run, for what lies in a run's folder
    counts as handed on with it."""
    return runs_directory() / f"{run.name}.toml"


def checked(stage: str, given: Any) -> Recipe:
    """What was filled in, as settings. Raises UsageError naming every setting that is wrong."""
    names = _form(stage).names()
    if not isinstance(given, dict) or not all(isinstance(one, dict) for one in given.values()):
        raise UsageError("the settings are tables of values, by section", where="settings")
    for section, values in given.items():
        for name in values:
            if (section, name) not in names:
                raise UsageError(f"`{stage}` has no such setting", where=f"{section}.{name}")
    return validate(given, where="form")


def write_recipe(stage: str, run: RunDirectory, given: Tables) -> Path:
    """Write what was filled in into the run's recipe; the tables of other stages stay as they are.
    `given` are checked, and hold what is not as the form began, too.

    Raises UsageError where a recipe of another origin has the name, or for what a recipe can't say.
    """
    path = recipe_path(run)
    check_output(path, BEGIN)
    tables = load_recipe(path) if path.is_file() and path.stat().st_size else {}
    ours = _form(stage).names()
    kept = {
        section: {name: v for name, v in values.items() if (section, name) not in ours}
        for section, values in tables.items()
    }
    for section, values in given.items():
        for name, value in values.items():
            if value is None:
                raise UsageError(
                    "can't be taken back: a recipe has no word for 'not set'",
                    where=f"{section}.{name}",
                    hint="Train a run of another name without it.",
                )
            kept.setdefault(section, {})[name] = value
    chosen = {section: values for section, values in kept.items() if values}
    write_output(path, recipe_text(chosen, {}, _HEADING), BEGIN)
    return path
