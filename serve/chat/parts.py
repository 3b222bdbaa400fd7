"""The parts of an answer, and the calls that JSON in it writes."""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from tuneserve.chat.call_formats import HERMES, CallForm
from tuneserve.serve.chat.call_arguments.values import to_json


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


def call_id() -> str:
    return f"call_{secrets.token_hex(8)}"


def calls_or_content(form: CallForm, text: str) -> list[Part]:
    """The calls in what was held for some; without any it is text."""
    inside = text
    for mark in filter(None, (form.section_mark, form.section_end_mark, form.begin, form.end)):
        inside = inside.replace(mark, " ", 1)
    return parse_calls(inside, form) or ([Content(text)] if text else [])


def parse_calls(text: str, form: CallForm = HERMES) -> list[Part] | None:
    """The calls that JSON between marks writes, whatever the order of its keys; None if it is
    no call."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    parts: list[Part] = []
    for call in value if isinstance(value, list) else [value]:
        if not isinstance(call, dict):
            return None
        if form.name_is_key and len(call) == 1:
            ((name, arguments),) = call.items()
        else:
            name, arguments = call.get(form.name_key or "name"), _arguments_of(call, form)
        if not isinstance(name, str) or not isinstance(arguments, dict):
            return None
        parts += [CallBegin(call_id(), name), CallArguments(to_json(arguments))]
    return parts or None


def _arguments_of(call: dict[str, Any], form: CallForm) -> Any:
    key = next((key for key in (form.arguments_key, "arguments", "parameters") if key in call), "")
    # Without a mark, only the key of the arguments tells a call from an answer in JSON.
    arguments = call.get(key, {} if form.triggers else None)
    if isinstance(arguments, str):
        try:
            return json.loads(arguments)
        except (ValueError, RecursionError):
            return None
    return arguments
