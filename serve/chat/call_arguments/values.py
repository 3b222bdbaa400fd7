"""Values that a model writes in text or in Python's words, as JSON."""

from __future__ import annotations

import ast
import json
from typing import Any

from tuneserve.serve.chat.schema_ways import type_of


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


def value_of(text: str, types: frozenset[str]) -> Any:
    """What a text without quotes stands for, given the types that its schema allows."""
    if types == {"string"}:
        return text
    try:
        value = literal(text)
    except ValueError:
        return text
    name = type_of(value)
    fits = not types or name in types or (name == "integer" and "number" in types)
    return value if fits or "string" not in types else text
