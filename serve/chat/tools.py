"""Tool calls: how a model is told of tools, made to call them, and read.

The form is that of Hermes and Qwen, which most open models are trained on:
`<tool_call>{"name": …, "arguments": {…}}</tool_call>`. Templates that know tools get them as they
are; for the others they are described in the system prompt.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tuneserve.serve.chat.gbnf import literal
from tuneserve.serve.chat.grammar import refused_schemas
from tuneserve.serve.chat.schema_rules import Property, SchemaError, SchemaRules, json_text

OPEN, CLOSE = "<tool_call>", "</tool_call>"


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
    start = "" if opened else f'"{OPEN}" '
    more = f'(blank "{OPEN}" blank {calls} blank "{CLOSE}")*' if several else ""
    root = f'root ::= {start}blank {calls} blank "{CLOSE}" {more}'
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


def knows_tools(template_source: str) -> bool:
    """Does a chat template render tools and calls by itself?"""
    return "tools" in template_source and "tool_call" in template_source


def described(
    messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Messages for a template that knows no tools: the functions in the system prompt, calls and
    results as text."""
    turns = [_as_text(message) for message in messages]
    if not tools:
        return turns
    listed = "\n".join(json.dumps(tool["function"], ensure_ascii=False) for tool in tools)
    text = (
        f"You can call these functions:\n{listed}\n"
        f'To call one, write {OPEN}{{"name": "…", "arguments": {{…}}}}{CLOSE}.'
    )
    if turns and turns[0]["role"] == "system":
        return [{**turns[0], "content": f"{turns[0]['content']}\n\n{text}"}, *turns[1:]]
    return [{"role": "system", "content": text}, *turns]


def _as_text(message: Mapping[str, Any]) -> dict[str, Any]:
    role, content = message["role"], message.get("content") or ""
    if role == "tool":
        return {"role": "user", "content": f"<tool_response>\n{content}\n</tool_response>"}
    calls = [
        f"{OPEN}{json.dumps(call['function'], ensure_ascii=False)}{CLOSE}"
        for call in message.get("tool_calls") or ()
    ]
    return {"role": role, "content": "\n".join([*([content] if content else []), *calls])}
