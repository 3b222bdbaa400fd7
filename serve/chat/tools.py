"""Tool calls: how a model is made to call tools, and its calls read.

Their form, and how a model is told of tools, is in tuneserve.chat.tools.
"""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call the model makes; `arguments` is JSON text, as OpenAI has it."""

    id: str
    name: str
    arguments: str


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
