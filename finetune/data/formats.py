"""The shapes an example may have in a file, and what is wrong with one that has none of them.

alpaca             instruction, input (optional), output
prompt/completion  prompt, completion: text, or lists of messages
messages           messages with role and content (OpenAI), tools, reasoning_content and the weight
                   of an answer included
sharegpt           conversations with from and value
text               text: no prompt, the whole text is learned
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tuneserve.chat.template import Message, normal_message
from tuneserve.chat.thinking import REASONING, split_thoughts

ROLES = ("system", "developer", "user", "assistant", "tool")
SHAREGPT_ROLES = {
    "system": "system", "human": "user", "user": "user", "gpt": "assistant", "model": "assistant",
    "assistant": "assistant", "chatgpt": "assistant", "tool": "tool", "observation": "tool",
}  # fmt: skip
SHAPES = "instruction + output (and input), prompt + completion, messages, conversations, or text"
_REASONING_KEYS = (REASONING, "reasoning", "thinking")


class BadRecord(Exception):  # noqa: N818 - a finding about the data, collected and not an error yet
    """One record of a data file can't be used; the text says why."""


@dataclass(frozen=True)
class Parsed:
    """A record's conversation, the tools it may call, and the shape it was recognised by.

    `notes` say what was changed or left out, and which keys were not used, a sentence each.
    """

    shape: str
    messages: tuple[Message, ...]
    tools: tuple[dict[str, Any], ...] | None = None
    notes: tuple[str, ...] = ()


def parse_record(record: Any, *, system: str = "") -> Parsed:
    """The conversation in a record, the system prompt put first where it has none of its own.

    Raises BadRecord with the reason if there is none in it.
    """
    if not isinstance(record, dict):
        raise BadRecord(f"expected an object, got {json_type(record)}")
    found = next((r for r in _READERS if any(record.get(key) is not None for key in r[1])), None)
    if found is None:
        keys = ", ".join(repr(key)[:40] for key in list(record)[:6]) or "none"
        raise BadRecord(f"needs {SHAPES}; its keys are {keys}")
    shape, _, read = found
    messages = read(record)
    if shape != "text":  # a text is learned unchanged
        messages = [_with_thoughts_apart(message) for message in messages]
    own = _optional_text(record, "system") or system
    if own and messages[0]["role"] != "system" and shape != "text":
        messages = [{"role": "system", "content": own}, *messages]
    return Parsed(shape, tuple(messages), _tools(record))


def optional_name(record: Mapping[str, Any], key: str) -> str | None:
    """An optional name of a record ('id', 'group', 'source'); numbers become text."""
    value = record.get(key)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return _optional_text(record, key) or None


def _alpaca(record: Mapping[str, Any]) -> list[Message]:
    extra = _optional_text(record, "input")
    return _one_turn(record, "instruction", "output", f"\n\n{extra}" if extra.strip() else "")


def _prompt_completion(record: Mapping[str, Any]) -> list[Message]:
    prompt, completion = _decoded(record, "prompt", "role"), _decoded(record, "completion", "role")
    if isinstance(prompt, list) or isinstance(completion, list):
        if not isinstance(prompt, list):
            prompt = [{"role": "user", "content": prompt}]
        if not isinstance(completion, list):
            completion = [{"role": "assistant", "content": completion}]
        return _conversation([*prompt, *completion], "prompt + completion")
    return _one_turn(record, "prompt", "completion")


def _messages(record: Mapping[str, Any]) -> list[Message]:
    return _conversation(_decoded(record, "messages", "role"), "messages")


def _sharegpt(record: Mapping[str, Any]) -> list[Message]:
    turns = _decoded(record, "conversations", "from", "role")
    if not isinstance(turns, list):
        raise BadRecord(f"'conversations' must be a list of messages, got {json_type(turns)}")
    return _conversation([_sharegpt_turn(turn) for turn in turns], "conversations")


def _sharegpt_turn(turn: Any) -> Any:
    if not isinstance(turn, dict) or "from" not in turn:
        return turn  # perhaps OpenAI's keys: `_conversation` checks them
    sender = turn["from"]
    role = SHAREGPT_ROLES.get(sender) if isinstance(sender, str) else None
    if role is None:
        known = ", ".join(SHAREGPT_ROLES)
        raise BadRecord(f"'from' must be one of {known}, got {sender!r:.40}")
    return {"role": role, "content": turn.get("value"), "weight": turn.get("weight")}


def _text_alone(record: Mapping[str, Any]) -> list[Message]:
    text = _required_text(record, "text")
    if not text.strip():
        raise BadRecord("'text' is empty: there is nothing to learn from it")
    return [{"role": "assistant", "content": text}]


_READERS: tuple[tuple[str, tuple[str, ...], Callable[[Mapping[str, Any]], list[Message]]], ...] = (
    ("messages", ("messages",), _messages),
    ("sharegpt", ("conversations",), _sharegpt),
    ("alpaca", ("instruction", "output"), _alpaca),
    ("prompt/completion", ("prompt", "completion"), _prompt_completion),
    ("text", ("text",), _text_alone),
)


def _one_turn(
    record: Mapping[str, Any], prompt_key: str, answer_key: str, extra: str = ""
) -> list[Message]:
    prompt = _required_text(record, prompt_key) + extra
    answer = _required_text(record, answer_key)
    if not prompt.strip():
        raise BadRecord(f"{prompt_key!r} is empty")
    if not answer.strip():
        raise BadRecord(f"{answer_key!r} is empty: there is nothing to learn from it")
    return [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]


def _conversation(value: Any, name: str) -> list[Message]:
    if not isinstance(value, list) or not value:
        raise BadRecord(f"{name!r} must be a list of messages, got {json_type(value)}")
    messages = [_message(message, f"{name}[{number}]") for number, message in enumerate(value)]
    last = messages[-1]
    if last["role"] != "assistant":
        raise BadRecord("the last message must be the assistant's: it is what is learned")
    if not last["content"].strip() and not last.get("tool_calls"):
        raise BadRecord("the last message is empty: there is nothing to learn from it")
    if last.get("weight") == 0:
        raise BadRecord("the last message has weight 0: there is nothing to learn from it")
    if not any(message["role"] == "user" for message in messages):
        raise BadRecord(f"{name!r} has no message of the user's")
    return messages


def _message(value: Any, place: str) -> Message:
    if not isinstance(value, dict):
        raise BadRecord(f"{place} must be an object, got {json_type(value)}")
    role = value.get("role")
    if role not in ROLES:
        raise BadRecord(f"{place}: 'role' must be one of {', '.join(ROLES)}, got {role!r:.40}")
    calls = _tool_calls(value.get("tool_calls"), place)
    content = value.get("content")
    if content is None and not calls:
        raise BadRecord(f"{place}: key 'content' is missing")
    message: dict[str, Any] = {
        "role": role,
        "content": None if content is None else _text(content, f"{place}.content"),
    }
    if calls:
        message["tool_calls"] = calls
    weight = value.get("weight")  # OpenAI's: is an answer context only (0) or learned (1)?
    if role == "assistant" and weight not in (None, 0, 1):
        raise BadRecord(f"{place}: 'weight' must be 0 or 1, got {weight!r:.40}")
    if role == "assistant" and weight == 0:
        message["weight"] = 0
    for key in ("name", "tool_call_id"):
        if text := _optional_text(value, key):
            message[key] = text
    for key in _REASONING_KEYS:
        if text := _optional_text(value, key):
            message[REASONING] = text
    try:
        return normal_message(message)
    except ValueError as error:
        raise BadRecord(f"{place}.tool_calls: {error}") from None


def _tool_calls(value: Any, place: str) -> list[dict[str, Any]]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise BadRecord(f"{place}.tool_calls must be a list, got {json_type(value)}")
    for call in value:
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise BadRecord(f"{place}.tool_calls: each needs a 'function' with a 'name'")
    return value


def _tools(record: Mapping[str, Any]) -> tuple[dict[str, Any], ...] | None:
    tools = _decoded(record, "tools", "type", "function", "name")
    if not tools:
        return None
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise BadRecord(f"'tools' must be a list of objects, got {json_type(tools)}")
    return tuple(tools)


def _with_thoughts_apart(message: Message) -> Message:
    """Thoughts written in the text of an answer become its reasoning_content."""
    if message["role"] != "assistant" or not message["content"] or message.get(REASONING):
        return message
    split = split_thoughts(message["content"])
    if split.thoughts is None:
        return message
    if split.cut_off:
        raise BadRecord("an answer opens its thoughts and never closes them")
    if not split.answer.strip() and not message.get("tool_calls"):
        raise BadRecord("an answer has thoughts and nothing after them")
    return {**message, "content": split.answer, REASONING: split.thoughts}


def _decoded(record: Mapping[str, Any], key: str, *marks: str) -> Any:
    """A value that tables (CSV, Parquet) may hold as JSON text: a list of objects that each have
    one of the keys `marks`. Any other text is text, be it JSON or not."""
    value = record.get(key)
    if not isinstance(value, str) or not value.lstrip().startswith("["):
        return value
    try:
        decoded = json.loads(value)
    except (ValueError, RecursionError):
        return value
    meant = all(isinstance(item, dict) and any(m in item for m in marks) for item in decoded)
    return decoded if decoded and meant else value


def _required_text(record: Mapping[str, Any], key: str) -> str:
    if record.get(key) is None:
        raise BadRecord(f"key {key!r} is missing")
    return _text(record[key], key)


def _optional_text(record: Mapping[str, Any], key: str) -> str:
    value = record.get(key)
    return "" if value is None else _text(value, key)


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise BadRecord(f"{name!r} must be text, got {json_type(value)}")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise BadRecord(f"{name!r} holds half of a surrogate pair, which is no character") from None
    return value


def json_type(value: Any) -> str:
    """What a JSON value is, in words."""
    names: dict[type, str] = {
        dict: "an object", list: "a list", str: "text", bool: "true or false", int: "a number",
        float: "a number", type(None): "nothing",
    }  # fmt: skip
    name = names.get(type(value), type(value).__name__)
    return f"an empty {name.split()[-1]}" if value in ({}, []) else name
