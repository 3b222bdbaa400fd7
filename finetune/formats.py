"""The shapes an example may have in a file, and what is wrong with one that has none of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from finetune.examples import Message

ROLES = ("system", "user", "assistant", "tool")
SHAPES = "'instruction' (and 'input') with 'output', or 'messages'"


class BadRecord(Exception):  # noqa: N818 - a finding about the data, collected and not an error yet
    """One line of a data file can't be used; the text says why."""


def messages_of(record: Any, *, system: str = "") -> tuple[Message, ...]:
    """The conversation in a record, the system prompt put first where it has none of its own.

    Raises BadRecord with the reason if there is none in it.
    """
    if not isinstance(record, dict):
        raise BadRecord(f"expected an object, got {_kind(record)}")
    if "messages" in record:
        messages = _chat(record["messages"])
    elif "instruction" in record or "output" in record:
        messages = _instruction(record)
    else:
        keys = ", ".join(map(repr, list(record)[:6])) or "none"
        raise BadRecord(f"needs {SHAPES}; its keys are {keys}")
    own = _optional_text(record, "system") or system
    if own and messages[0]["role"] != "system":
        messages = [{"role": "system", "content": own}, *messages]
    return tuple(messages)


def label_of(record: Mapping[str, Any], key: str) -> str | None:
    """An optional name of a record ('id', 'group', 'source'); numbers become text."""
    value = record.get(key)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return _optional_text(record, key) or None


def _instruction(record: Mapping[str, Any]) -> list[Message]:
    missing = [key for key in ("instruction", "output") if key not in record]
    if missing:
        raise BadRecord(f"key {missing[0]!r} is missing")
    instruction = _text(record["instruction"], "instruction")
    extra = _optional_text(record, "input")
    answer = _text(record["output"], "output")
    prompt = f"{instruction}\n\n{extra}" if extra and extra.strip() else instruction
    if not prompt.strip():
        raise BadRecord("'instruction' is empty")
    if not answer.strip():
        raise BadRecord("'output' is empty: there is nothing to learn from it")
    return [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]


def _chat(value: Any) -> list[Message]:
    if not isinstance(value, list) or not value:
        raise BadRecord(f"'messages' must be a list of messages, got {_kind(value)}")
    messages = [_message(message, number) for number, message in enumerate(value)]
    if messages[-1]["role"] != "assistant":
        raise BadRecord("the last message must be the assistant's: it is what is learned")
    if not messages[-1]["content"].strip():
        raise BadRecord("the last message is empty: there is nothing to learn from it")
    if not any(message["role"] == "user" for message in messages):
        raise BadRecord("'messages' has no message with role 'user'")
    return messages


def _message(value: Any, number: int) -> Message:
    place = f"messages[{number}]"
    if not isinstance(value, dict):
        raise BadRecord(f"{place} must be an object, got {_kind(value)}")
    role = value.get("role")
    if role not in ROLES:
        raise BadRecord(f"{place}: 'role' must be one of {', '.join(ROLES)}, got {role!r:.40}")
    if "content" not in value:
        raise BadRecord(f"{place}: key 'content' is missing")
    return {"role": role, "content": _text(value["content"], f"{place}.content")}


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise BadRecord(f"{name!r} must be text, got {_kind(value)}")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise BadRecord(f"{name!r} holds half of a surrogate pair, which is no character") from None
    return value


def _optional_text(record: Mapping[str, Any], key: str) -> str:
    value = record.get(key)
    return "" if value is None else _text(value, key)


def _kind(value: Any) -> str:
    names: dict[type, str] = {
        dict: "an object", list: "a list", str: "text", bool: "true or false", int: "a number",
        float: "a number", type(None): "null",
    }  # fmt: skip
    name = names.get(type(value), type(value).__name__)
    return f"an empty {name[2:]}" if value in ({}, []) else name
