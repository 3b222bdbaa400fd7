"""Descriptions of tools with what a chat template can't do without."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tuneserve.chat.template_traits import TemplateTraits

_TYPES = {str: "string", bool: "boolean", int: "integer", float: "number", list: "array"}
_ANY = "string"


def suited(tool: Mapping[str, Any], traits: TemplateTraits) -> dict[str, Any]:
    """A tool as a template with these traits can write it: empty texts and lists for what it reads
    without asking, one type for each property. What it can write itself is left as it is."""
    if "function" not in tool or not (traits.whole_tools or traits.simple_types):
        return dict(tool)
    function = dict(tool["function"])
    if traits.whole_tools:
        function = {"description": "", **function}
        function["parameters"] = {
            "type": "object", "properties": {}, **(function.get("parameters") or {})
        }  # fmt: skip
    if traits.simple_types and function.get("parameters"):
        parameters = function["parameters"]
        properties = parameters.get("properties") or {}
        simple = {name: _simple(one) for name, one in properties.items()}
        function["parameters"] = {**parameters, "properties": simple}
    return {**tool, "function": function}


def _simple(schema: Any) -> Any:
    if not isinstance(schema, Mapping):
        return {"type": _ANY}
    return {**schema, "type": _type_of(schema)}


def _type_of(schema: Mapping[str, Any]) -> str:
    """The first type of a property, None set aside."""
    kinds = schema.get("type")
    named = [kinds] if isinstance(kinds, str) else kinds if isinstance(kinds, list) else []
    for variant in (*(schema.get("anyOf") or ()), *(schema.get("oneOf") or ())):
        if isinstance(variant, Mapping) and isinstance(variant.get("type"), str):
            named = [*named, variant["type"]]
    if not named and schema.get("enum"):
        named = [_TYPES.get(type(schema["enum"][0]), _ANY)]
    return next((kind for kind in named if kind != "null"), _ANY)
