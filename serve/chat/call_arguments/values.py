"""Values that a model writes in text or in Python's words, as JSON."""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping
from typing import Any

_NAMES = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array",
          dict: "object", type(None): "null"}  # fmt: skip
_DEEPEST = 8
"""References and unions of a schema that are followed to a value's types."""


def to_json(value: Any) -> str:
    """JSON text. Half a character, which UTF-8 lacks, is written as JSON's escape."""
    written = json.dumps(value, ensure_ascii=False)
    return written.encode("utf-8", "backslashreplace").decode()


def escaped(text: str) -> str:
    """A piece of a text as it stands within JSON's quotes."""
    return to_json(text)[1:-1]


def literal(text: str) -> Any:
    """A value in JSON or in Python's literals. Raises ValueError."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deep") from None
    except ValueError:
        pass
    try:
        value = ast.literal_eval(text.strip())
        json.dumps(value, allow_nan=False)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        raise ValueError("no literal") from None
    return value


def types_of(schema: Any, root: Mapping[str, Any], *, depth: int = 0) -> frozenset[str]:
    """JSON's types that a schema allows; none: any."""
    if not isinstance(schema, Mapping) or depth > _DEEPEST:
        return frozenset()
    if isinstance(kind := schema.get("type"), str):
        return frozenset({kind})
    if isinstance(kind, list):
        return frozenset(map(str, kind))
    if "const" in schema or isinstance(schema.get("enum"), list):
        values = [schema["const"]] if "const" in schema else schema["enum"]
        return frozenset(_NAMES.get(type(value), "") for value in values)
    if isinstance(name := schema.get("$ref"), str):
        defined = root.get("$defs") or root.get("definitions")
        found = defined.get(name.rpartition("/")[2]) if isinstance(defined, Mapping) else None
        return types_of(found, root, depth=depth + 1)
    for key in ("anyOf", "oneOf"):
        if isinstance(ways := schema.get(key), list):
            found_types = [types_of(way, root, depth=depth + 1) for way in ways]
            return frozenset().union(*found_types) if all(found_types) else frozenset()
    return frozenset()


def value_of(text: str, types: frozenset[str]) -> Any:
    """What a text without quotes stands for, given the types that its schema allows."""
    if types == {"string"}:
        return text
    try:
        value = literal(text)
    except ValueError:
        return text
    name = _NAMES.get(type(value), "")
    fits = not types or name in types or (name == "integer" and "number" in types)
    return value if fits or "string" not in types else text
