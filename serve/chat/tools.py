"""Tool calls: how a model is made to call tools, and its calls read.

Their form, and how a model is told of tools, is in tuneserve.chat.tools.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tuneserve.chat.tools import CLOSE_CALL, OPEN_CALL
from tuneserve.serve.chat.gbnf import literal
from tuneserve.serve.chat.grammar import refused_schemas
from tuneserve.serve.chat.schema_rules import Property, SchemaError, SchemaRules, json_text


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call the model makes; `arguments` is JSON text, as OpenAI has it."""

    id: str
    name: str
    arguments: str


def calls_grammar(tools: Sequence[Mapping[str, Any]], *, several: bool, opened: bool) -> str:
    """GBNF of one call (or `several`) of the given functions; `opened`: the first `<tool_call>`
    is there already. Raises ApiError for parameters that can't be enforced."""
    rules = SchemaRules()
    with refused_schemas("tools"):
        calls = rules.add(" | ".join(_call(rules, tool["function"]) for tool in tools))
    start = "" if opened else f'"{OPEN_CALL}" '
    more = f'(blank "{OPEN_CALL}" blank {calls} blank "{CLOSE_CALL}")*' if several else ""
    root = f'root ::= {start}blank {calls} blank "{CLOSE_CALL}" {more}'
    return f"{root}\nblank ::= [ \\n]?\n{rules.text()}"


def _call(rules: SchemaRules, function: Mapping[str, Any]) -> str:
    """A call of one function. Its parameters are a schema of their own, with its own `#`."""
    parameters = function.get("parameters") or {"type": "object", "properties": {}}
    if parameters.get("type", "object") != "object":
        raise SchemaError(f"the parameters of '{function['name']}' must be an object")
    name = rules.add(literal(json_text(function["name"])))
    arguments = rules.add_schema(parameters)
    if arguments == "value":
        arguments = "object"
    return rules.add_object([Property("name", name, True), Property("arguments", arguments, True)])


def call_id() -> str:
    return f"call_{secrets.token_hex(8)}"


def parse_call(text: str) -> ToolCall | None:
    """The call written between the marks; None if it is none."""
    try:
        value = json.loads(text)
        name, arguments = value["name"], value.get("arguments", {})
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError):
        return None
    if not isinstance(name, str) or not isinstance(arguments, dict):
        return None
    return ToolCall(call_id(), name, json.dumps(arguments, ensure_ascii=False))
