"""Tools and calls of them, in the ways that data sets write them, in OpenAI's form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tuneserve.chat.template import Message, normal_message
from tuneserve.finetune.data.values import (
    BadRecord,
    Findings,
    check_json,
    from_json,
    given,
    json_type,
    present,
)

Call = dict[str, Any]
_ARGUMENTS = ("arguments", "parameters", "args", "input")
_SCHEMAS = ("parameters", "input_schema", "inputSchema")
_KEPT = {"id", "type", "index"}
_OPEN, _CLOSE = "<tool_call>", "</tool_call>"


def tool_calls(value: Any, place: str, findings: Findings) -> list[Call]:
    """The calls in a message's `tool_calls`: a list, one call, or either as JSON text.

    Raises BadRecord for what is none.
    """
    decoded = from_json(value)
    if not given(decoded):
        return []
    calls = [decoded] if isinstance(decoded, dict) else decoded
    if not isinstance(calls, list):
        raise BadRecord(f"{place} must be a list, got {json_type(value)}")
    return [_call(from_json(call), place, findings) for call in calls]


def calls_in_text(text: Any, place: str, findings: Findings) -> list[Call]:
    """The calls that a turn of ShareGPT's kind ('function_call') has as its text."""
    inner = text.strip() if isinstance(text, str) else text
    if isinstance(inner, str) and inner.startswith(_OPEN):
        parts = inner.removesuffix(_CLOSE).split(_OPEN)[1:]
        pieces = [from_json(part.strip().removesuffix(_CLOSE).strip()) for part in parts]
        inner = [
            call for piece in pieces for call in (piece if isinstance(piece, list) else [piece])
        ]
    calls = tool_calls(inner, place, findings) if not isinstance(from_json(inner), str) else []
    if not calls:
        raise BadRecord(f'{place}: a call must be JSON: {{"name": …, "arguments": {{…}}}}')
    return calls


def read_tools(value: Any, name: str) -> tuple[dict[str, Any], ...] | None:
    """A record's tools in OpenAI's form: a list of them, one, or either as JSON text.

    Raises BadRecord for what is none.
    """
    decoded = from_json(value)
    if not given(decoded) or (isinstance(decoded, str) and not decoded.strip()):
        return None
    tools = [decoded] if isinstance(decoded, dict) else decoded
    if isinstance(tools, list):
        tools = [from_json(tool) for tool in tools]
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        what = "text that is no JSON" if isinstance(decoded, str) else json_type(decoded)
        raise BadRecord(f"{name!r} must be a list of objects, got {what}")
    check_json(tools, name)
    return tuple(_tool(tool) for tool in tools)


def _tool(tool: dict[str, Any]) -> dict[str, Any]:
    function = tool.get("function")
    if isinstance(function, dict):
        return {"type": "function", **tool}
    if not isinstance(tool.get("name"), str):
        return tool
    schema = next((tool[key] for key in _SCHEMAS if tool.get(key) is not None), None)
    rest = {k: v for k, v in tool.items() if k not in (*_SCHEMAS, "type") and v is not None}
    flat = rest if schema is None else {**rest, "parameters": from_json(schema)}
    return {"type": "function", "function": flat}


def _call(call: Any, place: str, findings: Findings) -> Call:
    function = from_json(call.get("function")) if isinstance(call, dict) else None
    flat = isinstance(call, dict) and not given(function)
    if flat:
        function = call
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise BadRecord(f"{place}: each needs a 'function' with a 'name'")
    function = present(function)
    key = next((key for key in _ARGUMENTS if key in function), None)
    rest = {k: v for k, v in function.items() if k not in ("name", key)}
    outer = rest if flat else {k: v for k, v in present(call).items() if k != "function"}
    for unused in (outer if flat else {**rest, **outer}).keys() - _KEPT:
        findings.add(f"key {unused!r:.40} of a tool call is not used")
    called = {"name": function["name"], "arguments": function[key] if key else {}}
    kept = {k: v for k, v in outer.items() if k in _KEPT}
    whole = {**kept, "type": "function", "function": called}
    try:  # arguments that are no JSON object
        normal_message({"role": "assistant", "tool_calls": [whole]})
    except ValueError as error:
        raise BadRecord(f"{place}: {error}") from None
    check_json(whole, place)
    return whole


def note_calls(
    messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] | None, findings: Findings
) -> None:
    """Note results that answer no call, calls without a result, and calls of functions that the
    record's tools do not list."""
    known = {tool.get("function", tool).get("name") for tool in tools or ()}
    waiting: list[str] = []  # ids of the calls whose results are to come
    for message in messages:
        if message["role"] == "tool":
            name = message.get("tool_call_id")
            if name in waiting or (waiting and not (name and any(waiting))):
                waiting.remove(name if name in waiting else waiting[0])
            elif name:
                findings.add("a tool's result has the id of no call before it")
            continue
        if waiting:
            findings.add("a call of a tool has no result before the next message")
        calls = message.get("tool_calls") or ()
        waiting = [call.get("id") or "" for call in calls]
        for called in (call["function"]["name"] for call in calls):
            if known and called not in known:
                findings.add(f"a call of {called!r:.40}, which is not among the tools")
