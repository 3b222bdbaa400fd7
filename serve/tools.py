"""Tool calls: how a model is told of tools, made to call them, and read.

The form is that of Hermes and Qwen, which most open models are trained on:
`<tool_call>{"name": …, "arguments": {…}}</tool_call>`. Templates that know tools get them as they
are; for the others they are described in the system prompt.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from serve.grammar import schema_grammar

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
    schema = {"oneOf": [_call_schema(tool["function"]) for tool in tools]}
    body = re.sub(r"(?m)^root ::=", "call ::=", schema_grammar(schema, param="tools"))
    start = "" if opened else f'"{OPEN}" '
    more = f'(blank "{OPEN}" blank call blank "{CLOSE}")*' if several else ""
    root = f'root ::= {start}blank call blank "{CLOSE}" {more}'
    return f"{root}\nblank ::= [ \\n]?\n{body}"


def _call_schema(function: Mapping[str, Any]) -> dict[str, Any]:
    parameters = function.get("parameters") or {"type": "object", "properties": {}}
    return {
        "type": "object",
        "properties": {"name": {"const": function["name"]}, "arguments": parameters},
        "required": ["name", "arguments"],
    }


def parse_call(text: str) -> ToolCall | None:
    """The call written between the marks; None if it is none."""
    try:
        value = json.loads(text)
        name, arguments = value["name"], value.get("arguments", {})
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError):
        return None
    if not isinstance(name, str) or not isinstance(arguments, dict):
        return None
    return ToolCall(f"call_{secrets.token_hex(8)}", name, json.dumps(arguments, ensure_ascii=False))


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
