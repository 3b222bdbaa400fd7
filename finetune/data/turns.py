"""One item of a conversation's list as messages: roles and keys of every tool people use."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from tuneserve.chat.thinking import CLOSE_THOUGHTS, OPEN_THOUGHTS, REASONING, split_thoughts
from tuneserve.finetune.data.calls import calls_in_text, tool_calls
from tuneserve.finetune.data.flags import FLAGS, SPANS, learned
from tuneserve.finetune.data.parts import Content, read_content
from tuneserve.finetune.data.values import (
    BadRecord,
    Findings,
    as_text,
    given,
    json_type,
    note_line_ends,
    plain_text,
    present,
)

_CALLER = "function_call"
ROLE_OF = {
    "system": "system", "developer": "system", "human": "user", "user": "user", "prompter": "user",
    "customer": "user", "assistant": "assistant", "gpt": "assistant", "model": "assistant",
    "bot": "assistant", "chatbot": "assistant", "chatgpt": "assistant", "bing": "assistant",
    "bard": "assistant", "ai": "assistant", "tool": "tool", "observation": "tool",
    "function": "tool", "function_response": "tool", "function_result": "tool",
    "tool_response": "tool", "tool_result": "tool", "tool_output": "tool", "ipython": "tool",
    _CALLER: _CALLER, "tool_call": _CALLER, "tool_calls": _CALLER, "functioncall": _CALLER,
}  # fmt: skip
"""Names of speakers, in lower case and with underscores; `function_call` is an assistant's turn
whose text is a call."""
_SPEAKERS = {
    "system": "system", "user": "user", "human": "user", "input": "user", "question": "user",
    "query": "user", "prompt": "user", "instruction": "user", "assistant": "assistant",
    "gpt": "assistant", "bot": "assistant", "output": "assistant", "answer": "assistant",
    "response": "assistant", "completion": "assistant",
}  # fmt: skip
"""Keys of an item that has no role: {"human": …, "assistant": …}."""
ROLE_KEYS = ("role", "from", "speaker", "sender", "author")
TEXT_KEYS = ("content", "value", "text", "message", "parts")
REASONING_KEYS = (REASONING, "reasoning", "thinking", "thoughts", "thought")
PICTURES = (
    "images", "image", "image_url", "image_path", "img", "videos", "video", "audios", "audio",
    "pixel_values",
)  # fmt: skip
_HARMLESS = {
    "id", "uuid", "timestamp", "create_time", "created_at", "model", "tokens", "token_count",
    "cache_control", "annotations", "stop_reason", "finish_reason", "index", "turn", "language",
    "score", "end_turn",
}  # fmt: skip
_OTHER_THOUGHTS = (
    "<|begin_of_thought|>", "<thinking>", "<thought>", "<thoughts>", "<reasoning>", "<reason>",
    "[THINK]", "◁think▷", "<seed:think>", "<|channel|>analysis", "<|START_THINKING|>", "<unused94>",
)  # fmt: skip

Turn = tuple[dict[str, Any], bool | None]
"""A message, and whether its flags ask to learn it (None: they don't say)."""
_RESULT = re.compile(r"\s*<tool_response>\s*(.*?)\s*</tool_response>\s*", re.DOTALL)


def role_of(name: Any) -> str | None:
    """The role that a speaker's name stands for; None for one that is not known."""
    if not isinstance(name, str):
        return None
    return ROLE_OF.get(name.strip().lower().replace("-", "_").replace(" ", "_"))


def read_turns(item: Any, place: str, findings: Findings) -> list[Turn]:
    """The messages of one item: mostly one; several for results of tools in Anthropic's form, and
    for {"human": …, "assistant": …}. None for an empty system prompt.

    Raises BadRecord, with the place, for what can't be used.
    """
    if not isinstance(item, dict):
        hint = ""
        if isinstance(item, str | list):
            hint = ": write {'role': 'user', 'content': …} and {'role': 'assistant', 'content': …}"
        raise BadRecord(f"{place} must be an object, got {json_type(item)}{hint}")
    turn = present(item)
    role_key = next((key for key in ROLE_KEYS if key in turn), None)
    if role_key is None and (speakers := [key for key in turn if key in _SPEAKERS]):
        return _exchange(turn, speakers, place, findings)
    role = role_of(turn.get(role_key)) if role_key else None
    if role is None:
        known = ", ".join(ROLE_OF)
        key = role_key or "role"
        raise BadRecord(f"{place}: {key!r} must be one of {known}, got {turn.get(key)!r:.40}")
    asked = learned(turn, place)
    used = {role_key, *FLAGS, *SPANS}
    content = _content(turn, role, place, used, findings)
    if role == _CALLER:
        content = _called(content, place, findings)
        role = "assistant"
    _add_calls(content, turn, role, place, used, findings)
    _add_thoughts(content, turn, role, place, used, findings)
    _note_unused(turn, used, place, findings)
    turns: list[Turn] = []
    for name, text in content.results:
        turns.append(
            ({"role": "tool", "content": text} | ({"tool_call_id": name} if name else {}), None)
        )
    if role == "system" and not (content.text or "").strip():
        return turns
    if content.results and content.text is None:
        return turns
    message = _message(content, turn, role, place, asked is False, findings)
    return [*turns, (message, asked)]


def _message(
    content: Content, turn: dict[str, Any], role: str, place: str, context: bool, findings: Findings
) -> dict[str, Any]:
    if content.text is None and not content.calls and role != "assistant":
        raise BadRecord(f"{place}: key 'content' is missing")
    if role == "user" and not (content.text or "").strip():
        raise BadRecord(f"{place} is an empty message of the user's")
    if "<image>" in (content.text or "") and role != "assistant":
        findings.add("'<image>' in a text stands for no picture here: it is read as text")
    message: dict[str, Any] = {"role": role, "content": content.text}
    if content.calls:
        message["tool_calls"] = content.calls
    for key in ("name", "tool_call_id"):
        if given(turn.get(key)):
            message[key] = as_text(turn[key], f"{place}.{key}", Findings())
    if "tool_name" in turn and role == "tool":
        message.setdefault("name", as_text(turn["tool_name"], f"{place}.tool_name", Findings()))
    if content.thoughts.strip():
        message[REASONING] = content.thoughts
    if role == "tool" and (inside := _RESULT.fullmatch(content.text or "")):
        message["content"] = inside[1]
        findings.add("<tool_response> around a tool's result is left out", odd=False)
    return (
        answer_checked(message, place, findings, context=context)
        if role == "assistant"
        else message
    )


def answer_checked(
    message: dict[str, Any], place: str, findings: Findings, *, context: bool = False
) -> dict[str, Any]:
    """An assistant's message whose thoughts stand apart from its text. `context`: it is not
    learned, so it may be empty.

    Raises BadRecord for an answer that is empty, or has thoughts and no answer.
    """
    text, own = message["content"] or "", message.get(REASONING)
    split = split_thoughts(text)
    if split.thoughts is not None and not (context and split.cut_off):
        if split.cut_off:
            raise BadRecord(f"{place}: an answer opens its thoughts and never closes them")
        if own and split.thoughts and split.thoughts != own.strip():
            raise BadRecord(
                f"{place}: its thoughts stand in the text and, others, in a key of their own"
            )
        message = {**message, "content": split.answer, REASONING: own or split.thoughts}
        text = split.answer
        if not message[REASONING]:
            del message[REASONING]
            findings.add("empty thoughts are taken as none", odd=False)
    if not context:
        _check_answer(message, text, place, findings)
    return {**message, "content": text} if text or not message.get("tool_calls") else message


def _check_answer(message: dict[str, Any], text: str, place: str, findings: Findings) -> None:
    if not text.strip() and not message.get("tool_calls"):
        if message.get(REASONING):
            raise BadRecord(f"{place}: an answer has thoughts and nothing after them")
        raise BadRecord(f"{place} is an empty answer: it would teach the model to say nothing")
    mark = next((mark for mark in _OTHER_THOUGHTS if text.lstrip().startswith(mark)), None)
    if mark:
        findings.add(f"an answer looks like thoughts of another form ({mark}): learned as text")
    if OPEN_THOUGHTS in text and CLOSE_THOUGHTS in text:
        findings.add(f"an answer has {OPEN_THOUGHTS} after its beginning: learned as text")
    note_line_ends(text, findings)


def _exchange(
    turn: dict[str, Any], speakers: list[str], place: str, findings: Findings
) -> list[Turn]:
    """The messages of {"system": …, "human": …, "assistant": …}, in this order."""
    order = {"system": 0, "user": 1, "assistant": 2}
    speakers = sorted(speakers, key=lambda key: order[_SPEAKERS[key]])
    roles = [_SPEAKERS[key] for key in speakers]
    if len(set(roles)) < len(roles):
        raise BadRecord(f"{place}: key 'role' is missing")
    asked = learned(turn, place)
    _note_unused(turn, {*speakers, *FLAGS, *SPANS}, place, findings)
    flag = {} if asked is None else {"weight": int(asked)}
    return [
        one
        for key, role in zip(speakers, roles, strict=True)
        for one in read_turns(
            {"role": role, "content": turn[key]} | (flag if role == "assistant" else {}),
            f"{place}.{key}",
            findings,
        )
    ]


def _content(
    turn: dict[str, Any], role: str, place: str, used: set[Any], findings: Findings
) -> Content:
    keys = [key for key in TEXT_KEYS if key in turn]
    key = next((key for key in keys if given(turn[key])), keys[0] if keys else "content")
    used.add(key)
    refusal = turn.get("refusal")
    if role == "assistant" and isinstance(refusal, str) and not given(turn.get(key)):
        used.add("refusal")
        findings.add("a refusal of the assistant's is its answer", odd=False)
        return Content(text=plain_text(refusal, f"{place}.refusal"))
    return read_content(turn.get(key), role, f"{place}.{key}", findings)


def _called(content: Content, place: str, findings: Findings) -> Content:
    text = content.text or ""
    split = split_thoughts(text)
    calls = calls_in_text(split.answer, place, findings)
    return Content(thoughts=split.thoughts or content.thoughts, calls=calls)


def _add_calls(
    content: Content, turn: dict[str, Any], role: str, place: str, used: set[Any],
    findings: Findings,
) -> None:  # fmt: skip
    for key in ("tool_calls", _CALLER):
        calls = tool_calls(turn.get(key), f"{place}.{key}", findings)
        used.add(key)
        if calls and content.calls:
            raise BadRecord(f"{place}: calls of tools stand in {key!r} and elsewhere")
        content.calls = content.calls or calls
    if content.calls and role != "assistant":
        raise BadRecord(f"{place}: only the assistant calls tools, got role {role!r}")
    if content.results and role not in ("user", "tool"):
        raise BadRecord(f"{place}: a result of a tool comes from the user or the tool")


def _add_thoughts(
    content: Content, turn: dict[str, Any], role: str, place: str, used: set[Any],
    findings: Findings,
) -> None:  # fmt: skip
    if role != "assistant":
        if content.thoughts:
            raise BadRecord(f"{place}: only the assistant has thoughts, got role {role!r}")
        return
    for key in REASONING_KEYS:
        if not isinstance(turn.get(key), str):
            continue
        used.add(key)
        text = plain_text(turn[key], f"{place}.{key}")
        if text.strip() and content.thoughts.strip() and text.strip() != content.thoughts.strip():
            raise BadRecord(f"{place}: thoughts stand in {key!r} and, others, elsewhere")
        content.thoughts = content.thoughts or text


def _note_unused(turn: dict[str, Any], used: set[Any], place: str, findings: Findings) -> None:
    for key in _unused(turn, used):
        if key in PICTURES:
            raise BadRecord(f"{place}: {key!r}: pictures and sounds can't be trained, only text")
        if key == "prefix" and turn[key] is True:
            raise BadRecord(f"{place}: 'prefix': the beginning of an answer can't be read alone")
        if key in ("tools", "functions"):
            raise BadRecord(f"{place}: {key!r} belong beside the messages, not into one")
        findings.add(f"key {key!r:.40} of a message is not used", odd=key not in _HARMLESS)


def _unused(turn: dict[str, Any], used: set[Any]) -> Iterator[str]:
    read = used | {"name", "tool_call_id"} | ({"tool_name"} if turn.get("tool_name") else set())
    return (key for key, value in turn.items() if key not in read and given(value))
