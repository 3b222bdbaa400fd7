"""A list of messages as the conversation that is trained, which ends with a learned answer."""

from __future__ import annotations

from typing import Any

from tuneserve.finetune.data.turns import ROLE_KEYS, TEXT_KEYS, Turn, read_turns, role_of
from tuneserve.finetune.data.values import BadRecord, Findings, from_json, json_type

CONVERSATION_KEYS = (
    "messages", "conversations", "conversation", "dialog", "dialogue", "turns", "chat", "contents",
)  # fmt: skip
SURE_KEYS = CONVERSATION_KEYS[:2]
"""Those that never mean anything else; 'turns' may be a number."""


def conversation(value: Any, name: str, findings: Findings) -> list[dict[str, Any]]:
    """The messages of a list (or of JSON text that holds one), up to the last learned answer.

    What follows that answer is left out and noted. Raises BadRecord, with the place, for what
    can't be used.
    """
    items = from_json(value)
    if not isinstance(items, list) or not items:
        raise BadRecord(f"{name!r} must be a list of messages, got {json_type(items)}")
    _check_not_texts(items, name)
    turns: list[Turn] = []
    for number, item in enumerate(items):
        turns += read_turns(item, f"{name}[{number}]", findings)
    return ended(turns, name, findings)


def ended(turns: list[Turn], name: str, findings: Findings) -> list[dict[str, Any]]:
    """The messages up to the last answer that is learned; answers that are not carry weight 0.

    Raises BadRecord if there is no such answer, or nothing of the user's before it.
    """
    _check_flags(turns, name, findings)
    answers = [place for place, (message, _) in enumerate(turns) if message["role"] == "assistant"]
    asked = [place for place in answers if turns[place][1] is not False]
    if not answers:
        raise BadRecord(
            f"{name!r} has no answer: the last message must be the assistant's, which is learned"
        )
    if not asked:
        raise BadRecord(f"every answer of {name!r} has weight 0: there is nothing to learn from it")
    last = asked[-1]
    rest = [message["role"] for message, _ in turns[last + 1 :]]
    if "assistant" in rest:
        findings.add("what follows the last answer that is learned is left out (its weight is 0)")
    elif "user" in rest:
        findings.add(
            "the conversation ends with the user: what follows its last answer is left out"
        )
    elif rest:
        findings.add("what follows the last answer (a tool's result) is left out")
    kept = turns[: last + 1]
    if not any(message["role"] == "user" for message, _ in kept):
        where = " before its last answer" if "user" in rest else ""
        raise BadRecord(f"{name!r} has no message of the user's{where}")
    return [
        {**m, "weight": 0} if flag is False and m["role"] == "assistant" else m for m, flag in kept
    ]


def is_conversation(value: Any, *, known: bool = False) -> bool:
    """Is a value a list of messages, as opposed to data of another kind? `known`: of roles that
    are known."""
    return (
        isinstance(value, list)
        and bool(value)
        and all(
            isinstance(item, dict)
            and any(key in item for key in ROLE_KEYS)
            and (not known or role_of(item.get("role") or item.get("from")) is not None)
            and any(key in item for key in (*TEXT_KEYS, "tool_calls"))
            for item in value
        )
    )


def history(value: Any, name: str, findings: Findings) -> list[Turn]:
    """The earlier turns in `history`: pairs of texts, {"user": …, "assistant": …}, or messages.

    Raises BadRecord for anything else.
    """
    items = from_json(value)
    if not isinstance(items, list):
        raise BadRecord(f"{name!r} must be a list of [question, answer], got {json_type(items)}")
    turns: list[Turn] = []
    for number, item in enumerate(items):
        place = f"{name}[{number}]"
        if isinstance(item, list):
            if len(item) != 2 or not all(isinstance(text, str) for text in item):
                raise BadRecord(f"{place} must be [question, answer], two texts")
            item = {"user": item[0], "assistant": item[1]}
        turns += read_turns(item, place, findings)
    return turns


def _check_flags(turns: list[Turn], name: str, findings: Findings) -> None:
    """Only answers are learned: a flag that asks for another message is refused, unless every
    message has it, so that it says nothing."""
    wrong = [
        message["role"] for message, asked in turns if asked and message["role"] != "assistant"
    ]
    if not wrong:
        return
    if any(asked is not True for m, asked in turns if m["role"] in ("user", "assistant")):
        raise BadRecord(
            f"{name!r} asks to learn a message of role {wrong[0]!r}: only the assistant's messages "
            "are learned"
        )
    findings.add("a flag asks to learn every message: the assistant's are learned", odd=False)


def _check_not_texts(items: list[Any], name: str) -> None:
    if all(isinstance(item, str) for item in items):
        raise BadRecord(
            f"{name!r} is a list of texts that doesn't say who speaks: write each as "
            '{"role": "user", "content": …} or {"role": "assistant", "content": …}'
        )
    if all(isinstance(item, list) for item in items):
        raise BadRecord(
            f"{name!r} is a list of lists: write a record for each conversation, of messages with "
            "'role' and 'content' (or 'instruction' and 'output')"
        )
