"""The JSON schema of a recipe, for editors that complete and check TOML."""

from __future__ import annotations

from typing import Any

from pydantic import BeforeValidator
from pydantic.fields import FieldInfo

from tuneserve.recipe import least_number, number_words, section_model
from tuneserve.settings import Recipe

# What is said of a setting, whatever form its value has.
_TOLD = ("description", "default", "title")
# What only this program reads in it.
_OWN = ("words", "least_number")
_DIALECT = "https://json-schema.org/draft/2020-12/schema"


def recipe_schema() -> dict[str, Any]:
    """What a recipe may hold, as JSON schema: what the settings take in more than one form (words
    and booleans, lists and text between commas, a word for a number) is taken here too."""
    schema = Recipe.model_json_schema()
    for section in Recipe.model_fields:
        model = section_model(section)
        properties = schema["$defs"][model.__name__]["properties"]
        for name, field in model.model_fields.items():
            checks = {one.func.__name__ for one in field.metadata if _is_check(one)}
            properties[name] = _widened(properties[name], checks, field)
    return {"$schema": _DIALECT, **schema, "title": "tuneserve recipe"}


def _is_check(one: object) -> bool:
    return isinstance(one, BeforeValidator)


def _widened(found: dict[str, Any], checks: set[str], field: FieldInfo) -> dict[str, Any]:
    others: list[dict[str, Any]] = []
    found = {key: value for key, value in found.items() if key not in _OWN}
    if (least := least_number(field)) is not None:
        found["minimum"] = least
    if words := number_words(field):
        others.append({"enum": list(words)})
    if "_switch_word" in checks:
        others.append({"type": "boolean"})
    if "_listed" in checks:
        others.append({"type": "string"})
    if not others:
        return found
    alone = {key: value for key, value in found.items() if key not in _TOLD}
    told = {key: value for key, value in found.items() if key in _TOLD}
    return {**told, "anyOf": [alone, *others]}
