"""Conversations of every kind, on which a chat template is tried."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tuneserve.chat.examples import Example
from tuneserve.chat.template import Message
from tuneserve.chat.thinking import REASONING

TOOL: Mapping[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a <place>.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "description": "Its name"}},
            "required": ["city"],
        },
    },
}
# Mistral's templates take ids of nine letters and digits alone.
_ID = "call00001"
_SYSTEM: Message = {"role": "system", "content": "Be brief. Ünï—code"}
_ASKED: Message = {"role": "user", "content": " What is 2 + 2?\n"}
_ANSWERED: Message = {"role": "assistant", "content": "It is 4."}
_THOUGHT: Message = {**_ANSWERED, REASONING: "Two and two."}
_CALLED: Message = {
    "role": "assistant", "content": "",
    "tool_calls": [
        {"id": _ID, "type": "function",
         "function": {"name": "get_weather", "arguments": {"city": "Łódź"}}}
    ],
}  # fmt: skip
_RESULT: Message = {
    "role": "tool", "name": "get_weather", "tool_call_id": _ID, "content": '{"c": 21}',
}  # fmt: skip

PLAIN = "a question"
PROBES: Mapping[str, Example] = {
    PLAIN: Example("plain", (_ASKED, _ANSWERED)),
    "a system prompt": Example("system", (_SYSTEM, _ASKED, _ANSWERED)),
    "several turns": Example("turns", (_ASKED, _ANSWERED, _ASKED, _ANSWERED)),
    "tools": Example("tools", (_ASKED, _CALLED, _RESULT, _ANSWERED), tools=(dict(TOOL),)),
    "thoughts": Example("thoughts", (_ASKED, _THOUGHT, _ASKED, _THOUGHT)),
}
"""By kind, as examples of a training are."""

CONVERSATIONS: Sequence[Sequence[Message]] = (
    (_ASKED,),
    (_SYSTEM, _ASKED),
    (_ASKED, _ANSWERED),
    (_ASKED, _ANSWERED, _ASKED),
    (_SYSTEM, _ASKED, _ANSWERED, _ASKED, _ANSWERED, _ASKED),
    (_ASKED, _THOUGHT),
    (_SYSTEM, _ASKED, _THOUGHT, _ASKED),
    (_ASKED, _CALLED, _RESULT),
    (_SYSTEM, _ASKED, _CALLED, _RESULT, _ANSWERED, _ASKED),
)
"""As they may reach a server, at any of their turns."""
