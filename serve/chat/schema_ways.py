"""What a schema of an argument comes to where JSON Schema is not enforced as a whole: the ways in
which it allows a value, each of one type, and the keywords that bound such a value."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

from tuneserve.serve.chat.json_schema import ANNOTATIONS, BOUNDLESS, referred, subschemas

Schema = Mapping[str, Any]

MOST_WAYS = 64
_DEEPEST = 8
"""References and unions of a schema that are followed to a value's types."""
_NAMES = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array",
          dict: "object", type(None): "null"}  # fmt: skip
_NUMBERS = {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"}
_OF_TYPE: Mapping[str, set[str]] = {
    "string": {"pattern", "format", "minLength", "maxLength"},
    "integer": _NUMBERS,
    "number": _NUMBERS,
    "array": {
        "items", "prefixItems", "minItems", "maxItems", "uniqueItems", "contains", "minContains",
        "maxContains", "unevaluatedItems",
    },
    "object": {
        "properties", "required", "additionalProperties", "patternProperties", "propertyNames",
        "minProperties", "maxProperties", "dependentRequired", "dependentSchemas", "dependencies",
        "unevaluatedProperties",
    },
}  # fmt: skip
_OF_ANY = {
    "enum", "const", "anyOf", "oneOf", "allOf", "not", "if", "$ref", "$dynamicRef", "$recursiveRef",
}  # fmt: skip
_ONLY_ONE = "x-only-oneOf"
"""Marks ways of which a value must satisfy one and no other."""


def ways(schema: Any, root: Schema) -> list[dict[str, Any]]:
    """References, unions and lists of types followed: each way has one type, or none, which means
    any. One that can't be followed keeps its keyword."""
    found = list(islice(_ways(schema, root, 0), MOST_WAYS + 1))
    if len(found) <= MOST_WAYS:
        return found
    return [dict(schema)] if isinstance(schema, Mapping) else [{}]


def _ways(schema: Any, root: Schema, depth: int) -> Iterator[dict[str, Any]]:
    if not isinstance(schema, Mapping):
        yield {"not": {}} if schema is False else {}
        return
    part = dict(schema)
    if depth <= _DEEPEST:
        for merged in _one_step(part, root):
            if merged is None:
                break
            yield from _ways(merged, root, depth + 1)
        else:
            return
    yield part


def _one_step(part: dict[str, Any], root: Schema) -> list[dict[str, Any] | None]:
    """The schemas that it comes to, or None where there is nothing to follow."""
    if isinstance(part.get("$ref"), str):
        return [_merged(part, "$ref", referred(root, part["$ref"]))]
    every = part.get("allOf")
    if isinstance(every, list) and len(every) == 1:
        return [_merged(part, "allOf", every[0])]
    for key in ("anyOf", "oneOf"):
        if isinstance(part.get(key), list) and part[key]:
            merged = [_merged(part, key, way) for way in part[key]]
            if None in merged:
                return [None]
            exclusive = key == "oneOf" and not _are_apart(part[key])
            return [{**one, _ONLY_ONE: True} for one in merged if one] if exclusive else merged
    if isinstance(part.get("type"), list) and part["type"]:
        return [{**part, "type": kind} for kind in map(str, part["type"])]
    return [None]


def _are_apart(every: list[Any]) -> bool:
    """Can no value satisfy two of these?"""
    if not all(isinstance(one, Mapping) for one in every):
        return False
    kinds = ["number" if one.get("type") == "integer" else one.get("type") for one in every]
    if all(isinstance(kind, str) for kind in kinds) and len(set(kinds)) == len(kinds):
        return True
    texts = [one.get("const") for one in every]
    return all(isinstance(text, str) for text in texts) and len(set(texts)) == len(texts)


def _merged(part: dict[str, Any], key: str, other: Any) -> dict[str, Any] | None:
    """A schema of both; None if they speak of the same."""
    rest = {name: value for name, value in part.items() if name != key}
    if other is True:
        return rest
    if not isinstance(other, Mapping) or set(asked(rest)) & set(asked(other)):
        return None
    if "type" in rest and other.get("type", rest["type"]) != rest["type"]:
        return None
    return {**rest, **other}


def asked(schema: Schema, kind: str = "") -> list[str]:
    """The keywords that bound a value of this type, '' for any."""
    words = (
        _OF_ANY
        | {_ONLY_ONE}
        | (_OF_TYPE.get(kind, set()) if kind else set().union(*_OF_TYPE.values()))
    )
    return [
        "oneOf" if word == _ONLY_ONE else word
        for word, value in schema.items()
        if word in words
        and (value is not None or word == "const")
        and value not in BOUNDLESS.get(word, ())
        and not (word == "format" and value in ("", *ANNOTATIONS))
    ]


def type_of(value: Any) -> str:
    """The name of a value's type."""
    return _NAMES.get(type(value), "")


def fixed_values(way: Schema) -> list[Any] | None:
    """The values that `const` or `enum` leave a way, those of its type."""
    values = [way["const"]] if "const" in way else way.get("enum")
    if not isinstance(values, list) or not values:
        return None
    kind = way.get("type", "")
    fits = [one for one in values if kind in ("", type_of(one)) or _is_number(kind, one)]
    return fits or None


def _is_number(kind: str, value: Any) -> bool:
    return kind == "number" and type_of(value) == "integer"


def types_of(schema: Any, root: Schema) -> frozenset[str]:
    """JSON's types that a schema allows; none: any."""
    found: set[str] = set()
    for way in ways(schema, root):
        if isinstance(way.get("type"), str):
            found.add(way["type"])
        elif (values := fixed_values(way)) is not None:
            found |= set(map(type_of, values))
        else:
            return frozenset()
    return frozenset(found)


def with_definitions(part: Schema, root: Schema) -> Schema | None:
    """A part of a schema that stands for itself; None if it refers to other than definitions."""
    defined = {key: root[key] for key in ("$defs", "definitions") if key in root}
    whole = {**defined, **part}
    references = [one["$ref"] for one in subschemas(whole) if isinstance(one.get("$ref"), str)]
    apart = all(one.startswith(("#/$defs/", "#/definitions/")) for one in references)
    return whole if apart else None
