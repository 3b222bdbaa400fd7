"""A tool call as it is written: its name as soon as it is there, its arguments as they come."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from tuneserve.serve.chat.tools import ToolCall, call_id

# What the grammar of calls writes before the arguments.
_HEAD = re.compile(
    r'\s*\{\s*"name"\s*:\s*(?P<name>"(?:[^"\\]|\\.)*")\s*,\s*"arguments"\s*:\s*(?=\{)'
)


@dataclass(frozen=True, slots=True)
class CallBegin:
    """A call of the function `name` begins."""

    id: str
    name: str


@dataclass(frozen=True, slots=True)
class CallArguments:
    """Text of the arguments of the call that has begun."""

    text: str


def begun(text: str) -> tuple[CallBegin, str] | None:
    """The call that `text` begins and what follows its head; None if that is not whole."""
    head = _HEAD.match(text)
    if head is None:
        return None
    return CallBegin(call_id(), json.loads(head["name"])), text[head.end() :]


def whole(call: ToolCall) -> tuple[CallBegin, CallArguments]:
    """A call that came at once."""
    return CallBegin(call.id, call.name), CallArguments(call.arguments)


class ObjectEnd:
    """Looks for the end of a JSON object in pieces of text."""

    def __init__(self) -> None:
        self._depth = 0
        self._in_string = self._escaped = False

    def find(self, text: str) -> int | None:
        """The place behind the object's last brace; None if it goes on."""
        for place, character in enumerate(text, start=1):
            if self._in_string:
                self._see_in_string(character)
            elif character == '"':
                self._in_string = True
            elif character in "{[":
                self._depth += 1
            elif character in "}]":
                self._depth -= 1
                if self._depth == 0:
                    return place
        return None

    def _see_in_string(self, character: str) -> None:
        if self._escaped:
            self._escaped = False
        elif character == "\\":
            self._escaped = True
        elif character == '"':
            self._in_string = False
