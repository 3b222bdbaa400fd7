"""Tools in a conversation, in the form that its chat template can write.

Templates that write tools and calls get them as they are. The others get calls as text in the form
of Hermes and Qwen, which most open models are trained on,
`<tool_call>{"name": …, "arguments": {…}}</tool_call>`, and tools described in the system prompt.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import count, groupby
from typing import Any

from tuneserve.chat.template import Message
from tuneserve.chat.template_traits import SHORT_ID, CallStyle, TemplateTraits
from tuneserve.chat.tool_descriptions import suited

OPEN_CALL, CLOSE_CALL = "<tool_call>", "</tool_call>"


def arranged(
    messages: Sequence[Message], tools: Sequence[Mapping[str, Any]], traits: TemplateTraits
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Messages as a template with these traits can write all of them, and the variable that holds
    the tools (`tools` if there are none)."""
    messages = _results_in_order(messages)
    if traits.calls is None:
        turns = _calls_as_text(messages)
    else:
        turns = _calls_in_style(messages, traits.calls)
    if tools and traits.tools is None:
        turns = _with_system(turns, _description(tools, by_text=traits.calls is None))
    if not traits.system and turns and turns[0]["role"] == "system":
        turns = _system_in_user(turns)
    if tools and traits.tools is not None:
        return turns, {traits.tools: [suited(tool, traits) for tool in tools]}
    return turns, {"tools": None}


def _results_in_order(messages: Sequence[Message]) -> list[Message]:
    """Results in the order of the calls that they answer: most templates do not write the ids that
    would tell."""
    order: dict[Any, int] = {}
    ordered: list[Message] = []
    for is_result, group in groupby(messages, key=lambda message: message["role"] == "tool"):
        turns = list(group)
        if not is_result:
            calls = turns[-1].get("tool_calls") or ()
            order = {call.get("id"): place for place, call in enumerate(calls)}
        elif all(turn.get("tool_call_id") in order for turn in turns):
            turns.sort(key=lambda turn: order[turn.get("tool_call_id")])
        ordered += turns
    return ordered


def _description(tools: Sequence[Mapping[str, Any]], *, by_text: bool) -> str:
    listed = "\n".join(json.dumps(tool.get("function", tool), ensure_ascii=False) for tool in tools)
    text = f"You can call these functions:\n{listed}"
    if by_text:
        text += f'\nTo call one, write {OPEN_CALL}{{"name": "…", "arguments": {{…}}}}{CLOSE_CALL}.'
    return text


def _with_system(turns: list[dict[str, Any]], text: str) -> list[dict[str, Any]]:
    if turns and turns[0]["role"] == "system":
        return [{**turns[0], "content": f"{turns[0]['content']}\n\n{text}"}, *turns[1:]]
    return [{"role": "system", "content": text}, *turns]


def _system_in_user(turns: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The system prompt in front of the first message of the user's, if that comes first."""
    system, *rest = turns
    if not rest or rest[0]["role"] != "user":
        return turns
    return [{**rest[0], "content": f"{system['content']}\n\n{rest[0]['content']}"}, *rest[1:]]


def _calls_in_style(messages: Sequence[Message], style: CallStyle) -> list[dict[str, Any]]:
    numbers = count(1)
    ids: dict[str, str] = {}
    waiting: list[str] = []  # ids of calls whose results are to come
    turns = []
    for message in messages:
        turn = dict(message)
        if calls := message.get("tool_calls"):
            turn["tool_calls"] = [_styled(call, style) for call in calls]
            if style.null_content and not turn.get("content"):
                turn["content"] = None
            if style.short_ids:
                waiting = [SHORT_ID.format(next(numbers)) for _ in calls]
                for call, name in zip(turn["tool_calls"], waiting, strict=True):
                    ids[str(call.get("id"))] = call["id"] = name
        elif message["role"] == "tool" and style.short_ids:
            known = ids.get(str(message.get("tool_call_id")))
            turn["tool_call_id"] = name = known or (waiting[0] if waiting else SHORT_ID.format(0))
            waiting = [other for other in waiting if other != name]
        turns.append(turn)
    return turns


def _styled(call: Mapping[str, Any], style: CallStyle) -> dict[str, Any]:
    function = dict(call["function"])
    if style.text_arguments:
        function["arguments"] = json.dumps(function["arguments"], ensure_ascii=False)
    return {**call, "function": function}


def _calls_as_text(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Calls as text of the assistant's, results as text of the user's: those that follow one
    another in one message, since some templates want the two to take turns."""
    turns: list[dict[str, Any]] = []
    for is_result, group in groupby(messages, key=lambda message: message["role"] == "tool"):
        if is_result:
            results = [m.get("content") or "" for m in group]
            texts = [f"<tool_response>\n{result}\n</tool_response>" for result in results]
            turns.append({"role": "user", "content": "\n".join(texts)})
        else:
            turns += [_call_as_text(message) for message in group]
    return turns


def _call_as_text(message: Message) -> dict[str, Any]:
    turn = {key: value for key, value in message.items() if key != "tool_calls"}
    content = message.get("content") or ""
    calls = [
        f"{OPEN_CALL}{json.dumps(call['function'], ensure_ascii=False)}{CLOSE_CALL}"
        for call in message.get("tool_calls") or ()
    ]
    return {**turn, "content": "\n".join([*([content] if content else []), *calls])}
