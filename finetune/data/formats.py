"""The shapes an example may have in a file, and what is wrong with one that has none of them.

messages           messages with role and content (OpenAI, Anthropic), tools, thoughts and flags
                   included
sharegpt           conversations with from and value; other names of the list too
alpaca             instruction, input (optional), output; history
prompt/completion  and other names of a question and its answer: text, or lists of messages
text               text: no prompt, the whole text is learned

Every key of a record is used, or refused, or there is a note of it.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import Any

from tuneserve.chat.template import Message, normal_message
from tuneserve.chat.thinking import REASONING
from tuneserve.finetune.data import pairs
from tuneserve.finetune.data.calls import note_calls, read_tools
from tuneserve.finetune.data.conversations import (
    CONVERSATION_KEYS,
    SURE_KEYS,
    conversation,
    is_conversation,
)
from tuneserve.finetune.data.flags import FLAGS, check_record
from tuneserve.finetune.data.parts import text_of
from tuneserve.finetune.data.row import Row, note_unused, refuse_other_tasks
from tuneserve.finetune.data.turns import ROLE_KEYS, role_of
from tuneserve.finetune.data.values import (
    BadRecord,
    Findings,
    as_text,
    from_json,
    json_type,
    listed,
    note_line_ends,
    plain_text,
)

__all__ = ["BadRecord", "Parsed", "json_type", "optional_name", "parse_record"]

SHAPES = (
    "instruction + output (and input), prompt + completion, question + answer, messages, "
    "conversations, or text"
)
_SYSTEMS = ("system", "system_prompt", "system_message")
_TOOLS = ("tools", "functions")
_CHOSEN = "function_call"
_KNOWN = frozenset((
    *CONVERSATION_KEYS, *pairs.PROMPTS, *pairs.ANSWERS, *_SYSTEMS, *_TOOLS, "text", "input",
    "context", "passage", "history", "complex_cot",
))  # fmt: skip
_CHAT_MARKS = (
    "<|im_start|>", "<|start_header_id|>", "<start_of_turn>", "[INST]", "<|user|>", "<|assistant|>",
    "### Instruction:", "### Response:", "<｜User｜>", "### Human:", "### Assistant:",
    "\nAssistant:", "\nASSISTANT:",
)  # fmt: skip


@dataclass(frozen=True)
class Parsed:
    """A record's conversation, the tools it may call, and the shape it was recognised by.

    `notes` say what was changed or left out, which keys were not used, and what may be meant
    otherwise; `told` is what only informs. A sentence each.
    """

    shape: str
    messages: tuple[Message, ...]
    tools: tuple[dict[str, Any], ...] | None = None
    notes: tuple[str, ...] = ()
    told: tuple[str, ...] = ()


def parse_record(record: Any, *, system: str = "", chosen: Container[str] = ()) -> Parsed:
    """The conversation in a record, the system prompt put first where it has none of its own.
    `chosen` are keys that the user named: of several prompts or answers these are taken.

    Its last message is the assistant's, learned, and has text or calls a tool; other answers that
    are not learned have weight 0. Raises BadRecord with the reason if there is none in it.
    """
    if not isinstance(record, dict):
        hint = ': write {"instruction": …, "output": …}' if isinstance(record, list | str) else ""
        raise BadRecord(f"expected an object, got {json_type(record)}{hint}")
    row, findings = Row(record, _KNOWN), Findings()
    refuse_other_tasks(row)
    check_record({key: row.take(key) for key in FLAGS})
    shape, messages = _read(row, chosen, findings)
    tools = _tools(row) if shape != "text" else None
    own = _system(row, findings) if shape != "text" else ""
    if shape != "text":
        messages = _with_system(messages, own, system, findings)
    note_unused(row, [text for message in messages for text in _texts(message)], findings)
    normal = tuple(normal_message(message) for message in messages)
    note_calls(normal, tools, findings)
    return Parsed(shape, normal, tools, tuple(findings.odd), tuple(findings.told))


def optional_name(record: Mapping[str, Any], key: str) -> str | None:
    """An optional name of a record ('id', 'group', 'source'); numbers become text."""
    value = record.get(key)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, float) and value.is_integer():  # pandas, where a row has none
        return str(int(value))
    return None if value is None else plain_text(value, key) or None


def _read(row: Row, chosen: Container[str], findings: Findings) -> tuple[str, list[dict[str, Any]]]:
    """The shape of a record, and its messages."""
    is_pair = pairs.is_pair(row)
    lists = [
        key
        for key in CONVERSATION_KEYS
        if row.says(key) and (key in SURE_KEYS or is_conversation(from_json(row.peek(key))))
    ]
    if not lists and not is_pair and not row.says("text"):
        lists = [key for key in CONVERSATION_KEYS if row.has(key)]
    if lists:
        key = lists[0]
        messages = conversation(row.take(key), key, findings)
        return "messages" if key == "messages" else "sharegpt", messages
    if is_pair:
        return pairs.read_pair(row, chosen, findings)
    if any(role_of(row.peek(key)) for key in ROLE_KEYS[:2]):
        raise BadRecord("is one message: a record is a whole conversation, {'messages': [...]}")
    if row.has("text"):
        return "text", [{"role": "assistant", "content": _text_alone(row, findings)}]
    raise BadRecord(
        f"needs {SHAPES}; its keys are {listed(row.names()[:6]) or 'none'} (name others with "
        "--fields instruction=KEY,output=KEY)"
    )


def _text_alone(row: Row, findings: Findings) -> str:
    text = as_text(row.take("text"), "text", findings)
    if not text.strip():
        raise BadRecord("'text' is empty: there is nothing to learn from it")
    note_line_ends(text, findings)
    if mark := next((mark for mark in _CHAT_MARKS if mark in text), None):
        findings.add(
            f"'text' looks like a conversation that is written out ({mark.strip()}): all of it "
            "is learned, its prompts too"
        )
    return text


def _system(row: Row, findings: Findings) -> str:
    key = next((key for key in _SYSTEMS if row.says(key)), None)
    if key is None:
        return ""
    value = row.take(key)
    return (
        text_of(value, key, findings) if isinstance(value, list) else as_text(value, key, findings)
    )


def _with_system(
    messages: list[dict[str, Any]], own: str, default: str, findings: Findings
) -> list[dict[str, Any]]:
    if messages[0]["role"] == "system":
        if own.strip() and own.strip() not in messages[0]["content"]:
            findings.add("'system' is not used: the conversation has a system prompt of its own")
        return messages
    text = own if own.strip() else default
    return [{"role": "system", "content": text}, *messages] if text else messages


def _tools(row: Row) -> tuple[dict[str, Any], ...] | None:
    found = [(key, read_tools(row.take(key), key)) for key in _TOOLS if row.has(key)]
    telling = [(key, tools) for key, tools in found if tools]
    if len(telling) > 1 and telling[0][1] != telling[1][1]:
        raise BadRecord("has other 'tools' than 'functions': give one of them")
    wish = row.take(_CHOSEN)
    if wish not in (None, "", "auto", "none"):
        raise BadRecord(
            f"{_CHOSEN!r} beside the messages: a call belongs to the assistant's message, as its "
            "tool_calls"
        )
    return telling[0][1] if telling else None


def _texts(message: Message) -> list[str]:
    return [text for key in ("content", REASONING) if (text := message.get(key) or "").strip()]
