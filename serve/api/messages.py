"""Messages of a conversation as clients send them: text, thoughts, tool calls."""

from __future__ import annotations

import json
import re
from typing import Annotated, Any, Literal

import pydantic_core
from pydantic import (
    Field,
    field_validator,
    model_validator,
)

from tuneserve.chat.template import normal_message
from tuneserve.serve.api import no_effect
from tuneserve.serve.api.request_model import RequestModel
from tuneserve.serve.api.strict_json import check_json_text

_TEXT_KEYS = {
    "text": "text",
    "input_text": "text",
    "output_text": "text",
    "refusal": "refusal",
    "thinking": "thinking",
}
"""Kinds of content parts, of several APIs, with the key under which their text stands."""
LONGEST_ARGUMENTS = 4 << 20
"""Characters of a call's arguments: more than the tokens of the longest answer come to."""
_AROUND = 16
"""Characters that a chat template writes around a message, about."""


class TextPart(RequestModel):
    """A piece of a message's text; `thinking` is a piece of its thoughts."""

    without_effect = no_effect.OF_PARTS
    type: Literal["text", "input_text", "output_text", "refusal", "thinking"]
    text: str

    @model_validator(mode="before")
    @classmethod
    def _text_under_one_key(cls, part: Any) -> Any:
        kind = part.get("type") if isinstance(part, dict) else None
        key = _TEXT_KEYS.get(kind) if isinstance(kind, str) else None
        if key is None:
            return part
        given = {name: value for name, value in part.items() if name != "signature"}
        if key != "text" and key in given:
            given["text"] = given.pop(key)
        return given


class CalledFunction(RequestModel):
    """A function the assistant called, with its arguments as JSON text."""

    without_effect = no_effect.OF_CALLS
    name: str
    arguments: str = "{}"

    @field_validator("arguments", mode="before")
    @classmethod
    def _as_json_object(cls, arguments: Any) -> Any:
        return given_arguments(arguments)


def given_arguments(arguments: Any) -> Any:
    """The `whole_arguments` of a call that a client sends back. Raises ValueError, also for more
    JSON than a request may hold."""
    if isinstance(arguments, str):
        if len(arguments) > LONGEST_ARGUMENTS:
            raise ValueError(f"It has more than {LONGEST_ARGUMENTS} characters.")
        check_json_text(arguments)
    return whole_arguments(arguments)


def whole_arguments(arguments: Any) -> Any:
    """Arguments of a call as the text of a JSON object. Those that were cut, as an answer of too
    few tokens has them, end where they were cut. Raises ValueError."""
    if isinstance(arguments, dict):
        return json.dumps(arguments, ensure_ascii=False)
    if not isinstance(arguments, str):
        return arguments
    if not arguments.strip():
        return "{}"
    try:
        value, whole = json.loads(arguments), True
    except (ValueError, RecursionError):
        value, whole = _begun_json(arguments), False
    if not isinstance(value, dict):
        raise ValueError("must be a JSON object")
    return arguments if whole else json.dumps(value, ensure_ascii=False)


_ESCAPED = re.compile(
    r"\\\\|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
    r"|(?P<half>\\u[dD][89a-fA-F][0-9a-fA-F]{2})"
)
"""Of JSON's escapes a backslash, a character in two halves, and a half without the other."""


def _begun_json(text: str) -> Any:
    """What there is of a JSON text that was cut, at times between the halves of a character.
    Raises ValueError."""
    text = _ESCAPED.sub(lambda found: r"\ufffd" if found["half"] else found[0], text)
    try:
        return pydantic_core.from_json(text, allow_partial="trailing-strings")
    except (ValueError, TypeError):  # a TypeError for half a character
        raise ValueError("must be JSON text") from None


class CallMade(RequestModel):
    """A tool call of an earlier turn."""

    without_effect = no_effect.OF_CALLS
    id: str
    type: Literal["function"] = "function"
    function: CalledFunction


class ChatMessage(RequestModel):
    """One turn of the conversation. A last turn of the assistant's is continued."""

    without_effect = no_effect.OF_MESSAGES
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | Annotated[list[TextPart], Field(fail_fast=True)] | None = None
    name: str | None = None
    tool_calls: Annotated[list[CallMade], Field(fail_fast=True)] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None
    """Thoughts of an earlier turn, for templates that want them."""
    reasoning: str | None = None
    """Other servers' name of reasoning_content."""
    refusal: str | None = None
    """What an earlier turn said instead of an answer."""

    @field_validator("content", mode="before")
    @classmethod
    def _text_or_parts(cls, content: Any) -> Any:
        if not isinstance(content, str | list):
            raise ValueError("must be a text, or a list of parts")
        return content

    @model_validator(mode="after")
    def _fields_suit_the_role(self) -> ChatMessage:
        if self.content is None and self.role not in ("assistant", "tool"):
            raise ValueError("content is required")
        if self.tool_calls and self.role != "assistant":
            raise ValueError("only the assistant has tool_calls")
        if (self.tool_call_id is not None) != (self.role == "tool"):
            raise ValueError("a message of role tool, and no other, has a tool_call_id")
        return self

    @property
    def size(self) -> int:
        """Characters of what it brings into the prompt, about."""
        calls = sum(len(call.function.arguments) for call in self.tool_calls or ())
        return len(self.text) + len(self.thoughts or "") + calls + _AROUND

    @property
    def text(self) -> str:
        if isinstance(self.content, list):
            return "".join(part.text for part in self.content if part.type != "thinking")
        return self.content or self.refusal or ""

    @property
    def thoughts(self) -> str | None:
        """Thoughts of an earlier turn, under whichever name they came."""
        parts = self.content if isinstance(self.content, list) else []
        thinking = "".join(part.text for part in parts if part.type == "thinking")
        return self.reasoning_content or self.reasoning or thinking or None

    def as_template_sees_it(self) -> dict[str, Any]:
        """The message as training gave it to the template, its content as plain text."""
        message: dict[str, Any] = {"role": self.role, "content": self.text}
        told = {
            "name": self.name,
            "tool_call_id": self.tool_call_id,
            "reasoning_content": self.thoughts,
        }
        message |= {key: value for key, value in told.items() if value is not None}
        if self.tool_calls:
            message["tool_calls"] = [call.model_dump() for call in self.tool_calls]
        return normal_message(message)
