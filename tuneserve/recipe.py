"""Recipes: TOML files with one table per stage, checked key by key."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from tuneserve.errors import UsageError
from tuneserve.files import read_text
from tuneserve.settings import Recipe

LARGEST_RECIPE = 1 << 20
"""Bytes."""


def shipped_recipes() -> dict[str, Path]:
    """The recipes that are installed with the package, by name."""
    folder = Path(__file__).resolve().parent / "recipes"
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def load_recipe(path: Path) -> dict[str, dict[str, Any]]:
    """Read a recipe's tables as written (only what the file sets), after checking them whole.

    Raises UsageError naming file and line for bad TOML, unknown keys (with the nearest known
    one) and values out of bounds; all of them at once.
    """
    text = read_text(path, "recipe", most=LARGEST_RECIPE)
    try:
        tables = tomllib.loads(text)
    except RecursionError:
        raise UsageError("not valid TOML: nested too deep", where=str(path)) from None
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"not valid TOML: {error}", where=str(path)) from error
    validate(tables, where=str(path), text=text)
    _check_numbers(tables, str(path), text)
    return tables


def _check_numbers(tables: Mapping[str, Any], where: str, text: str) -> None:
    """Raise UsageError for a number that stands for a word, and is none that a user writes."""
    for section, values in tables.items():
        for name, value in values.items():
            field = section_model(section).model_fields[name]
            least = least_number(field)
            if least is not None and value not in number_words(field) and int(value) < least:
                line = _line_of([section, name], text)
                word = as_written(section, name, int(value))
                raise UsageError(
                    f"{section}.{name}: is at least {least}, or {word!r} (got {value!r})",
                    where=f"{where}:{line}" if line else where,
                )


def validate(tables: Mapping[str, Any], *, where: str, text: str = "") -> Recipe:
    """Check nested settings against the Recipe model; `text` is searched for line numbers."""
    try:
        return Recipe.model_validate(tables)
    except ValidationError as error:
        places = [_describe(detail, where, text) for detail in error.errors()]
    if len(places) == 1:
        place, message = places[0]
        raise UsageError(message, where=place)
    raise UsageError(
        f"{len(places)} settings are wrong",
        where=where,
        problems=[f"{place}: {message}" for place, message in places],
    )


def section_model(section: str) -> type[BaseModel]:
    """The model of a recipe's table."""
    annotation = Recipe.model_fields[section].annotation
    assert isinstance(annotation, type)
    assert issubclass(annotation, BaseModel)
    return annotation


def words_of(section: str, name: str) -> tuple[object, ...]:
    """The words that a setting may be."""
    return get_args(section_model(section).model_fields[name].annotation)


def least_number(field: FieldInfo) -> int | None:
    """The least number that a user writes, of a setting that has a lower one for a word."""
    extra = field.json_schema_extra
    least = extra.get("least_number") if isinstance(extra, dict) else None
    return least if isinstance(least, int) else None


def as_written(section: str, name: str, value: Any) -> Any:
    """The word that a setting's number stands for, or the value itself."""
    words = number_words(section_model(section).model_fields[name])
    return next((word for word, number in words.items() if number == value), value)


def number_words(field: FieldInfo) -> dict[str, Any]:
    """The words that a user may write for numbers."""
    extra = field.json_schema_extra
    words = extra.get("words") if isinstance(extra, dict) else None
    return dict(words) if isinstance(words, dict) else {}


def nearest(name: str, known: list[str]) -> str:
    """' (did you mean …?)' for the closest of the `known` names, or the list of them."""
    spelled = {word.lower(): word for word in known}
    matches = difflib.get_close_matches(name.lower(), spelled, n=1, cutoff=0.5)
    return f"did you mean '{spelled[matches[0]]}'?" if matches else f"known are: {', '.join(known)}"


def _describe(detail: ErrorDetails, where: str, text: str) -> tuple[str, str]:
    location = [str(part) for part in detail["loc"]]
    if not location:  # a rule between tables, which names its keys itself
        return where, detail["msg"].removeprefix("Value error, ")
    key = ".".join(location)
    line = _line_of(location, text)
    place = f"{where}:{line}" if line else where
    if detail["type"] == "extra_forbidden":
        model = Recipe if len(location) == 1 else section_model(location[0])
        known = list(model.model_fields)
        kind = "table" if len(location) == 1 else "key"
        return place, f"unknown {kind} '{key}' ({nearest(location[-1], known)})"
    message = detail["msg"].removeprefix("Value error, ")
    given = detail["input"]
    shown = "" if isinstance(given, BaseModel | dict) else f" (got {given!r})"
    hint = ""
    if detail["type"] == "literal_error" and isinstance(given, str) and len(location) == 2:
        hint = nearest(given, [str(word) for word in words_of(location[0], location[1])])
        hint = f"; {hint}" if hint.startswith("did") else ""
    return place, f"{key}: {message[0].lower()}{message[1:]}{shown}{hint}"


def _line_of(location: list[str], text: str) -> int | None:
    """Line of a `[table]` or of a key inside its table; tomllib does not tell, so search."""
    table, key = location[0], location[1] if len(location) > 1 else None
    current = ""
    table_line = None
    for number, line in enumerate(text.splitlines(), start=1):
        if header := re.match(r"\s*\[\s*([^\[\]]+?)\s*\]", line):
            current = header.group(1).strip("\"'")
            if current == table:
                table_line = number
        elif (current == table and key and _sets(key, line)) or (
            not current and _sets(table, line)
        ):
            return number
    return table_line


def _sets(key: str, line: str) -> bool:
    return re.match(rf"\s*[\"']?{re.escape(key)}[\"']?\s*[.=]", line) is not None
