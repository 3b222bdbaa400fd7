"""JSON Schema in the words that llguidance enforces, without what serves no answer."""

from __future__ import annotations

import json
import re
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import unquote

from tuneserve.serve.chat.endings import ending_keys
from tuneserve.serve.chat.grammar_errors import HALF_CHARACTER, GrammarError
from tuneserve.serve.chat.number_limits import check_multiples, limit_digits

Schema = Mapping[str, Any]

COMPACT = {"whitespace_flexible": False, "item_separator": ", ?", "key_separator": ": ?"}
"""At most one space behind a comma or a colon, no other white space: both common compact forms are
allowed, so that a model can write what it was trained on, and no small model can fill its answer
with line breaks. It also overrides what a client's schema says of llguidance's options."""

_NAMED = ("properties", "patternProperties", "$defs", "definitions")
_LISTED = ("anyOf", "oneOf", "allOf", "prefixItems", "items")
_SINGLE = ("items", "additionalProperties")
BOUNDLESS: Mapping[str, tuple[Any, ...]] = {
    "propertyNames": ({"type": "string"}, {}, True),
    "uniqueItems": (False,),
    "not": (False,),
    "if": (True, {}),
    "unevaluatedProperties": (True, {}),
    "unevaluatedItems": (True, {}),
    "dependentRequired": ({},),
    "dependentSchemas": ({},),
    "dependencies": ({},),
    "minContains": (0,),
}
"""What bounds nothing, though llguidance would refuse the keyword; zod writes the first."""
_FOURS = "(?:[2468][048]|[13579][26])"
_YEAR, _LEAP = "[1-9][0-9]{3}", f"(?:[1-9][0-9](?:0[48]|{_FOURS})|{_FOURS}00)"
_DATE = (
    f"{_YEAR}-(?:(?:0[1-9]|1[0-2])-(?:0[1-9]|1[0-9]|2[0-8])|(?:0[13-9]|1[0-2])-(?:29|30)"
    f"|(?:0[13578]|1[02])-31)|{_LEAP}-02-29"
)
_TIME = (
    "(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:[.][0-9]{1,6})?"
    "(?:Z|[+-](?:0[0-9]|1[0-4]):[0-5][0-9])"
)
_HEX = "[0-9a-fA-F]"
_LABEL = "[A-Za-z0-9](?:[A-Za-z0-9-]{0,30}[A-Za-z0-9])?"
FORMATS = {
    "date": _DATE,
    "time": _TIME,
    "date-time": f"(?:{_DATE})T{_TIME}",
    **{
        f"uuid{version}": f"{_HEX}{{8}}-{_HEX}{{4}}-{version}{_HEX}{{3}}-[89abAB]{_HEX}{{3}}"
        f"-{_HEX}{{12}}"
        for version in range(1, 9)
    },
    "email": "[A-Za-z0-9_%+'-]{1,32}(?:[.][A-Za-z0-9_%+'-]{1,32}){0,3}"
    f"@(?:{_LABEL}[.]){{1,3}}[A-Za-z]{{2,12}}",
}
"""Formats that llguidance takes at their word: fractions of a second, a mailbox or a domain without
end, 29 February of any year. Here they are what date libraries and mail servers take, and end. The
versions of UUID are pydantic's, and unknown to llguidance."""
ANNOTATIONS = {"password", "path", "file-path", "directory-path", "binary"}
"""Formats that any text has: they say what it is for."""
_COMBINING = {"allOf", "anyOf", "oneOf", "$ref"}
_APPLYING = {"properties", "patternProperties", *_SINGLE, "prefixItems", "multipleOf"}
"""With what a combining keyword beside them can meet in the same number."""


def function_param(place: int) -> str:
    """Where a request has the schema of a function's arguments."""
    return f"tools[{place}].function.parameters"


def parameters_of(function: Mapping[str, Any], param: str) -> Schema:
    parameters = function.get("parameters") or {"properties": {}}
    if parameters.get("type", "object") != "object":
        raise GrammarError("the parameters of a function must be an object", param=param)
    return {**parameters, "type": "object"}


def json_rule(schema: Schema, param: str) -> str:
    """A schema as Lark. Where it leaves freedom that serves no one, less of it is taken: objects
    have the properties that are named and no others, unless `additionalProperties` says so, and
    numbers, dates and addresses come to an end."""
    try:
        own = json.loads(json.dumps(schema, allow_nan=False))
    except (ValueError, RecursionError):
        raise GrammarError(
            "it is nested too deep, or has a number that JSON lacks", param=param
        ) from None
    if re.search("[\ud800-\udfff]", json.dumps(own, ensure_ascii=False)):
        raise GrammarError(f"it has {HALF_CHARACTER}", param=param)
    parts = list(subschemas(own))
    for part in parts:
        _drop_what_is_not_given(part)
    merges = any(_merges(part) for part in parts)
    multiples = check_multiples(parts, param, merges=merges)
    _check_parts_end(own, parts, param)
    closed = not any(_combines(part) for part in parts)
    for part in parts:
        if closed and "properties" in part:
            part.setdefault("additionalProperties", False)
        limit_digits(part, param, limit_decimals=not (merges and multiples))
        _set_format(part)
        for keyword in [key for key, values in BOUNDLESS.items() if part.get(key) in values]:
            del part[keyword]
        _say_otherwise(part)
        _drop_text_of_decimal(part)
    return f"%json {json.dumps({**own, 'x-guidance': COMPACT})}"


def _drop_what_is_not_given(part: dict[str, Any]) -> None:
    for keyword in [key for key, value in part.items() if value is None and key != "const"]:
        del part[keyword]
    if part.get("format") == "":
        del part["format"]


def _say_otherwise(part: dict[str, Any]) -> None:
    """What llguidance does not know, in words that it knows: nothing, null too (OpenAPI 3.0), and
    names of properties where no property is described."""
    if part.get("not") in ({}, True):
        del part["not"]
        part["enum"] = []
    if part.get("nullable") is True and isinstance(part.get("type"), str):
        part["type"] = [part["type"], "null"]
        if isinstance(part.get("enum"), list) and None not in part["enum"]:
            part["enum"] = [*part["enum"], None]
    names = part.get("propertyNames")
    if isinstance(names, dict) and not {"properties", "patternProperties"} & set(part):
        described = {key: value for key, value in names.items() if key != "type"}
        match described:
            case {"enum": [*texts], **rest} if not rest and all(isinstance(t, str) for t in texts):
                pattern = f"^(?:{'|'.join(map(_literal, texts))})$"
            case {"pattern": str(pattern), **rest} if not rest:
                pass
            case _:
                return
        del part["propertyNames"]
        part["patternProperties"] = {pattern: part.get("additionalProperties", {})}
        part["additionalProperties"] = False


def _literal(text: str) -> str:
    """A text as a regular expression."""
    return re.sub(r"([.^$*+?()\[\]{}|\\/-])", r"\\\1", text)


def _set_format(part: dict[str, Any]) -> None:
    """A format as llguidance enforces it."""
    name = part.get("format")
    if not isinstance(name, str):
        return
    if name in ANNOTATIONS:
        del part["format"]
    elif "pattern" not in part and (known := FORMATS.get(name)):
        part["pattern"] = f"^(?:{known})$"
        del part["format"]
    elif name == "ipvanyaddress" and "anyOf" not in part:
        part["anyOf"] = [{"format": "ipv4"}, {"format": "ipv6"}]
        del part["format"]


def subschemas(root: Any) -> Iterator[dict[str, Any]]:
    """The schema, all in it and what it refers to, each once, without recursion."""
    left = [root]
    seen = set()
    while left:
        part = left.pop()
        if not isinstance(part, dict) or id(part) in seen:
            continue
        seen.add(id(part))
        yield part
        if isinstance(part.get("$ref"), str):
            left.append(referred(root, part["$ref"]))
        for key in _NAMED:
            left += part[key].values() if isinstance(part.get(key), dict) else ()
        for key in _LISTED:
            left += part[key] if isinstance(part.get(key), list) else ()
        left += [part[key] for key in _SINGLE if key in part]


def _combines(part: Schema) -> bool:
    """Is a value to satisfy this and another schema? To close one would forbid the other's
    properties. And one with required properties that it does not describe is not closed either."""
    properties = part.get("properties")
    several = isinstance(part.get("allOf"), list) and len(part["allOf"]) > 1
    if not isinstance(properties, dict):
        return several
    required = part.get("required")
    return (
        several
        or bool(_COMBINING & set(part))
        or (isinstance(required, list) and not set(map(str, required)) <= set(properties))
    )


def _merges(part: Schema) -> bool:
    """Can a number in a value have to satisfy this and another schema?"""
    combining = _COMBINING & set(part)
    return (
        len(combining) > 1
        or (isinstance(part.get("allOf"), list) and len(part["allOf"]) > 1)
        or bool(combining and _APPLYING & set(part))
        or {"properties", "patternProperties"} <= set(part)
    )


def _drop_text_of_decimal(part: dict[str, Any]) -> None:
    """A Decimal of pydantic's is a number or a text. Up to 2.13 the text has a look-ahead, which
    can't be enforced: only the number is left. From 2.14 on it is any text, which is allowed."""
    ways = part.get("anyOf")
    if not isinstance(ways, list):
        return
    numbers = [way for way in ways if isinstance(way, dict) and way.get("type") == "number"]
    if numbers:
        part["anyOf"] = [
            way
            for way in ways
            if not (isinstance(way, dict) and str(way.get("pattern", "")).startswith("^(?!"))
        ]


def _check_parts_end(root: Schema, parts: Sequence[Schema], param: str) -> None:
    """Refuses what no answer can finish, such as an object that must contain itself."""
    needs: dict[Hashable, list[list[Hashable]]] = {
        id(part): list(_needs(root, part)) for part in parts
    }
    if len(ending_keys(needs)) < len(needs):
        reason = "it must contain itself, or refers to nothing but itself: no answer can end"
        raise GrammarError(reason, param=param)


def _needs(root: Schema, part: Schema) -> Iterator[list[Hashable]]:
    """Groups of subschemas, by id: a value of `part` needs a value of one in each group."""
    if {"enum", "const"} & set(part):
        return
    needed: list[Any] = []
    kind = part.get("type")
    properties, required = part.get("properties"), part.get("required")
    if kind == "object" and isinstance(properties, dict) and isinstance(required, list):
        needed += [properties.get(str(name)) for name in required]
    least = part.get("minItems")
    if kind == "array" and type(least) is int and least > 0:
        first = part.get("prefixItems")
        needed += first[:least] if isinstance(first, list) else [part.get("items")]
    if isinstance(part.get("allOf"), list):
        needed += part["allOf"]
    if isinstance(part.get("$ref"), str):
        needed.append(referred(root, part["$ref"]))
    for one in needed:
        if isinstance(one, dict):
            yield [id(one)]
    for key in ("anyOf", "oneOf"):
        ways = part.get(key)
        if isinstance(ways, list) and ways and all(isinstance(way, dict) for way in ways):
            yield [id(way) for way in ways]


def referred(root: Any, reference: str) -> Any:
    """What a reference within the schema points to; None for others."""
    if not reference.startswith("#"):
        return None
    for written in unquote(reference[1:]).split("/")[1:]:
        name = written.replace("~1", "/").replace("~0", "~")
        if isinstance(root, dict):
            root = root.get(name)
        elif isinstance(root, list) and re.fullmatch("[0-9]{1,9}", name):
            root = root[int(name)] if int(name) < len(root) else None
        else:
            return None
    return root


def refers_nowhere(root: Schema, reference: Any) -> bool:
    """Does a `$ref` point to nothing in the schema, or out of it?"""
    return not isinstance(reference, str) or referred(root, reference) is None
