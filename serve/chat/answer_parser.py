"""An answer's parts: what the model thinks, what it says, which tools it calls.

Read from the text as it streams: marks may be cut anywhere, and nothing of them is ever shown.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum

from tuneserve.chat.thinking import Thoughts, ThoughtStream, overlap
from tuneserve.chat.tools import CLOSE_CALL, OPEN_CALL


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call the model makes; `arguments` is JSON text, as OpenAI has it."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True)
class _Text:
    text: str


class Reasoning(_Text):
    """Text the model thinks to itself."""


class Content(_Text):
    """Text of the answer."""


@dataclass(frozen=True, slots=True)
class CallBegin:
    """A call of the function `name` begins."""

    id: str
    name: str


class CallArguments(_Text):
    """Text of the arguments of the call that has begun."""


Part = Reasoning | Content | CallBegin | CallArguments


def calls_of(parts: Sequence[Part]) -> list[ToolCall]:
    """The calls among the parts of an answer."""
    calls: list[ToolCall] = []
    for part in parts:
        if isinstance(part, CallBegin):
            calls.append(ToolCall(part.id, part.name, ""))
        elif isinstance(part, CallArguments):
            calls[-1] = replace(calls[-1], arguments=calls[-1].arguments + part.text)
    return calls


class _State(Enum):
    CONTENT = "in the answer's text"
    CALL = "behind <tool_call>, before the arguments"
    ARGUMENTS = "in the arguments of a call"
    CALLED = "behind the arguments, before </tool_call>"


class PartReader:
    """Splits growing text. `thoughts`: whether the answer begins inside them ('open'), may have
    some ('may') or has none; `calls`: tools were offered."""

    def __init__(self, thoughts: Thoughts = "none", *, calls: bool = False):
        self._thoughts = ThoughtStream(thoughts)
        self._calls = calls
        self._held = ""
        self._state = _State.CONTENT
        self._trim = False
        self._end = ObjectEnd()

    @property
    def plain(self) -> bool:
        """Is all of the text simply content?"""
        return self._thoughts.in_answer and not self._calls

    def feed(self, text: str) -> list[Part]:
        """The parts that `text` completes or continues."""
        return self._read(self._thoughts.feed(text))

    def finish(self) -> list[Part]:
        """What is held when the answer ends; a call without a name is content."""
        parts = self._read(self._thoughts.finish())
        rest, self._held = self._held, ""
        if self._state is _State.CALL:
            return parts + _call_or_content(rest, closed=False)
        if self._state is _State.CALLED:
            return parts
        return [*parts, Content(rest)] if rest else parts

    def _read(self, split: list[tuple[bool, str]]) -> list[Part]:
        parts: list[Part] = []
        for is_thought, text in split:
            if is_thought:
                parts.append(Reasoning(text))
                continue
            self._held += text
            while self._step(parts):
                pass
        return parts

    def _step(self, parts: list[Part]) -> bool:
        """Take one thing from what is held; False if more text is needed."""
        if self._trim:
            # The white space after a call belongs to no part.
            self._held = self._held.lstrip()
            self._trim = not self._held
        if not self._held:
            return False
        if self._state is _State.CALL:
            return self._call(parts)
        if self._state is _State.ARGUMENTS:
            return self._arguments(parts)
        if self._state is _State.CALLED:
            return self._until_close() is not None
        if not self._calls:
            parts.append(Content(self._held))
            self._held = ""
            return False
        return self._until_call(parts)

    def _until_call(self, parts: list[Part]) -> bool:
        before, found, after = self._held.partition(OPEN_CALL)
        if found:
            self._held, self._state, self._trim = after, _State.CALL, True
        else:
            shown = len(before) - overlap(before, OPEN_CALL)
            self._held, before = before[shown:], before[:shown]
        if before:
            parts.append(Content(before))
        return bool(found)

    def _call(self, parts: list[Part]) -> bool:
        if head := _HEAD.match(self._held):
            parts.append(CallBegin(call_id(), json.loads(head["name"])))
            self._held = self._held[head.end() :]
            self._state, self._end = _State.ARGUMENTS, ObjectEnd()
            return True
        inside = self._until_close()
        if inside is not None:
            parts += _call_or_content(inside, closed=True)
        return inside is not None

    def _arguments(self, parts: list[Part]) -> bool:
        end = self._end.find(self._held)
        parts.append(CallArguments(self._held[:end]))
        self._held = "" if end is None else self._held[end:]
        if end is not None:
            self._state = _State.CALLED
        return end is not None

    def _until_close(self) -> str | None:
        """What stands before </tool_call>, taken with it; None if that has not come."""
        inside, closed, after = self._held.partition(CLOSE_CALL)
        if not closed:
            return None
        self._held, self._state, self._trim = after, _State.CONTENT, True
        return inside


def _call_or_content(inside: str, *, closed: bool) -> list[Part]:
    return parse_call(inside) or [Content(f"{OPEN_CALL}{inside}{CLOSE_CALL if closed else ''}")]


# What the grammar of calls writes before the arguments.
_HEAD = re.compile(
    r'\s*\{\s*"name"\s*:\s*(?P<name>"(?:[^"\\]|\\.)*")\s*,\s*"arguments"\s*:\s*(?=\{)'
)


def call_id() -> str:
    return f"call_{secrets.token_hex(8)}"


def parse_call(text: str) -> list[Part] | None:
    """The call written between the marks; None if it is none."""
    try:
        value = json.loads(text)
        name, arguments = value["name"], value.get("arguments", {})
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError):
        return None
    if not isinstance(name, str) or not isinstance(arguments, dict):
        return None
    return [CallBegin(call_id(), name), CallArguments(json.dumps(arguments, ensure_ascii=False))]


class ObjectEnd:
    """Looks for the end of a JSON object in pieces of text."""

    def __init__(self) -> None:
        self._depth = 0
        self._in_string = self._escaped = False

    def find(self, text: str) -> int | None:
        """The place behind the object's last brace; None if it goes on."""
        for place, character in enumerate(text, start=1):
            if self._escaped:
                self._escaped = False
            elif self._in_string and character == "\\":
                self._escaped = True
            elif character == '"':
                self._in_string = not self._in_string
            elif self._in_string:
                continue
            elif character in "{[":
                self._depth += 1
            elif character in "}]":
                self._depth -= 1
                if self._depth == 0:
                    return place
        return None
