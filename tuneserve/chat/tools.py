"""Tools in a conversation: the marks around a call, and templates that know of no tools.

The form is that of Hermes and Qwen, which most open models are trained on:
`<tool_call>{"name": …, "arguments": {…}}</tool_call>`. Templates that know tools get them as they
are; for the others they are described in the system prompt.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from tuneserve.chat.template import Message

OPEN_CALL, CLOSE_CALL = "<tool_call>", "</tool_call>"


def knows_tools(template_source: str) -> bool:
    """Does a chat template render tools and calls by itself?"""
    return "tools" in template_source and "tool_call" in template_source


def described(
    messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Messages for a template that knows no tools: the functions in the system prompt, calls and
    results as text."""
    turns = [_as_text(message) for message in messages]
    if not tools:
        return turns
    listed = "\n".join(json.dumps(tool.get("function", tool), ensure_ascii=False) for tool in tools)
    text = (
        f"You can call these functions:\n{listed}\n"
        f'To call one, write {OPEN_CALL}{{"name": "…", "arguments": {{…}}}}{CLOSE_CALL}.'
    )
    if turns and turns[0]["role"] == "system":
        return [{**turns[0], "content": f"{turns[0]['content']}\n\n{text}"}, *turns[1:]]
    return [{"role": "system", "content": text}, *turns]


def _as_text(message: Message) -> dict[str, Any]:
    turn = {key: value for key, value in message.items() if key != "tool_calls"}
    content = message.get("content") or ""
    if message["role"] == "tool":
        response = f"<tool_response>\n{content}\n</tool_response>"
        return {**turn, "role": "user", "content": response}
    calls = [
        f"{OPEN_CALL}{json.dumps(call['function'], ensure_ascii=False)}{CLOSE_CALL}"
        for call in message.get("tool_calls") or ()
    ]
    return {**turn, "content": "\n".join([*([content] if content else []), *calls])}
