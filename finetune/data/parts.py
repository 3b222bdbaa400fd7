"""Content that is a list of parts: OpenAI's text parts, Anthropic's thoughts, calls and results."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tuneserve.finetune.data.calls import Call
from tuneserve.finetune.data.values import (
    BadRecord,
    Findings,
    as_text,
    check_json,
    given,
    json_type,
    plain_text,
    present,
)

_TEXTS = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal"}
_THOUGHTS = {"thinking": "thinking", "reasoning": "reasoning"}
_USED = {
    "type", "text", "refusal", "thinking", "reasoning", "id", "name", "input", "tool_use_id",
    "content",
}  # fmt: skip
_PICTURES = ("image", "image_url", "input_image")
_HARMLESS = {"cache_control", "signature", "index", "caller"}


@dataclass
class Content:
    """What a message holds: text (None: it has none), thoughts, calls, and results of calls as
    (id, text)."""

    text: str | None = None
    thoughts: str = ""
    calls: list[Call] = field(default_factory=list)
    results: list[tuple[str, str]] = field(default_factory=list)


def _is_parts(value: Any) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(part, dict) and _is_part(part) for part in value)
    )


def read_content(value: Any, role: str, place: str, findings: Findings) -> Content:
    """The content of a message of `role`: text, a part, or a list of parts.

    The texts of parts are joined without anything between them, as the server does it. Of the user,
    the assistant and the system, other values are written as JSON; the result of a tool always is,
    unless it is parts. Raises BadRecord for parts that are no text.
    """
    if role != "tool" and isinstance(value, dict) and _is_part(value):
        value = [value]
    if isinstance(value, list) and not value:
        return Content(text="")
    parts = _is_parts(value) if role != "tool" else _tool_parts(value)
    if not parts and not _untyped(value):
        if role == "tool" and isinstance(value, list | dict):
            return Content(text=as_text(value, place, Findings()))
        if isinstance(value, list):
            raise BadRecord(f"{place!r} must be text or a list of parts with a 'type'")
        return Content(text=None if value is None else as_text(value, place, findings))
    content = Content()
    for number, part in enumerate(value):
        _add(content, present(part), f"{place}[{number}]", findings)
    return content


def text_of(value: Any, name: str, findings: Findings) -> str:
    """The text of a value that may be a list of text parts."""
    content = read_content(value, "system", name, findings)
    if content.calls or content.results or content.thoughts:
        raise BadRecord(f"{name!r} must be text")
    return content.text or ""


def _tool_parts(value: Any) -> bool:
    # A tool may well return objects that have a type of their own.
    return _is_parts(value) and all(part["type"] in (*_TEXTS, *_PICTURES) for part in value)


def _is_part(value: dict[str, Any]) -> bool:
    return isinstance(value.get("type"), str)


def _untyped(value: Any) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(part, dict) and set(present(part)) == {"text"} for part in value)
    )


def _add(content: Content, part: dict[str, Any], place: str, findings: Findings) -> None:
    kind = part.get("type", "text")
    for key, value in part.items():
        if key not in _USED and given(value):
            odd = key not in _HARMLESS
            findings.add(f"key {key!r:.40} of a content part is not used", odd=odd)
    if kind in _TEXTS:
        if content.calls:
            raise BadRecord(f"{place}: text must stand before the calls of tools")
        text = plain_text(part.get(_TEXTS[kind]), f"{place}.{_TEXTS[kind]}")
        content.text = (content.text or "") + text
        if kind == "refusal":
            findings.add("a refusal of the assistant's is its answer", odd=False)
    elif kind in _THOUGHTS:
        if content.text is not None or content.calls:
            raise BadRecord(f"{place}: thoughts must stand before the text and the calls")
        thoughts = part.get(_THOUGHTS[kind], part.get("text"))
        text = text_of(thoughts, f"{place}.{_THOUGHTS[kind]}", findings)
        content.thoughts = f"{content.thoughts}\n\n{text}" if content.thoughts else text
    elif kind == "tool_use":
        call = {
            "name": plain_text(part.get("name"), f"{place}.name"),
            "arguments": _input(part, place),
        }
        named = {"id": part["id"]} if isinstance(part.get("id"), str) else {}
        content.calls.append({**named, "type": "function", "function": call})
    elif kind == "tool_result":
        if content.text is not None:
            raise BadRecord(f"{place}: a tool_result must stand before the text")
        result = read_content(part.get("content"), "tool", f"{place}.content", findings)
        content.results.append((str(part.get("tool_use_id") or ""), result.text or ""))
    elif kind == "redacted_thinking":
        raise BadRecord(f"{place} is redacted thinking: what was thought can't be read")
    else:
        raise BadRecord(f"{place} is a part of type {kind!r:.40}: only text can be trained")


def _input(part: dict[str, Any], place: str) -> dict[str, Any]:
    value = part.get("input") or {}
    if not isinstance(value, dict):
        raise BadRecord(f"{place}.input must be an object, got {json_type(value)}")
    check_json(value, f"{place}.input")
    return value
