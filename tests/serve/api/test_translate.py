"""Requests of the agents' APIs as the chat requests that mean the same; no model is needed."""

from __future__ import annotations

import json
from typing import Any

import pytest
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError

from tuneserve.serve.api.anthropic import translate as anthropic
from tuneserve.serve.api.anthropic.protocol import CountRequest as Messages
from tuneserve.serve.api.messages import whole_arguments
from tuneserve.serve.api.openai_responses import translate as openai
from tuneserve.serve.api.openai_responses.items import read_items
from tuneserve.serve.api.openai_responses.protocol import ResponsesRequest


def from_response(**fields: Any) -> Any:
    body = ResponsesRequest.model_validate({"input": "Hi", **fields})
    return openai.as_chat(body, body.input)


def from_messages(*messages: Any, thinks: bool = True, **fields: Any) -> Any:
    body = Messages.model_validate({"model": "m", "messages": messages, **fields})
    return anthropic.as_chat(body, thinks=thinks)


def told(chat: Any) -> list[dict[str, Any]]:
    return [message.model_dump(exclude_defaults=True) for message in chat.messages]


def test_items_of_one_answer_are_one_turn() -> None:
    items: list[dict[str, Any]] = [
        {"role": "developer", "content": "Be short."},
        {"role": "user", "content": [{"type": "input_text", "text": "Hi"}]},
        {"type": "reasoning", "id": "rs_1", "summary": [], "content": [
            {"type": "reasoning_text", "text": "Hm."}]},
        {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": [
            {"type": "output_text", "text": "One.", "annotations": [], "logprobs": []}]},
        {"type": "function_call", "call_id": "c1", "name": "f", "arguments": '{"a": [1', "id": "x"},
        {"type": "function_call", "call_id": "c2", "name": "g", "arguments": ""},
        {"type": "function_call_output", "call_id": "c1", "output": "1"},
        {"type": "function_call_output", "call_id": "c2", "output": [
            {"type": "input_text", "text": "2"}]},
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "So."}]},
        {"role": "assistant", "content": "Two."},
    ]  # fmt: skip
    chat = from_response(input=items, instructions="Answer.")
    calls = [
        {"id": "c1", "function": {"name": "f", "arguments": '{"a": [1]}'}},
        {"id": "c2", "function": {"name": "g"}},
    ]
    assert told(chat) == [
        {"role": "system", "content": "Answer.\n\nBe short."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "One.", "reasoning_content": "Hm.", "tool_calls": calls},
        {"role": "tool", "content": "1", "tool_call_id": "c1"},
        {"role": "tool", "content": "2", "tool_call_id": "c2"},
        {"role": "assistant", "content": "Two.", "reasoning_content": "So."},
    ]
    stored = [item.model_dump(exclude_none=True) for item in read_items(items)]
    again = openai.as_chat(ResponsesRequest.model_validate({"input": "Hi"}), read_items(stored))
    assert told(again)[1:] == told(chat)[1:]


def test_blocks_become_turns() -> None:
    chat = from_messages(
        {"role": "user", "content": "a"},
        {"role": "user", "content": [{"type": "text", "text": "b"}, {"type": "text", "text": "c"}]},
        {"role": "assistant", "content": [
            {"type": "thinking", "thinking": "Hm.", "signature": "s"},
            {"type": "redacted_thinking", "data": "x"},
            {"type": "tool_use", "id": "t1", "name": "f", "input": {"x": 1}}]},
        {"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": "t1", "content": "no", "is_error": True},
            {"type": "tool_result", "tool_use_id": "t2"},
            {"type": "text", "text": "d", "cache_control": {"type": "ephemeral"}}]},
        {"role": "user", "content": "e"},
        system="S",
    )  # fmt: skip
    call = {"id": "t1", "function": {"name": "f", "arguments": '{"x": 1}'}}
    assert told(chat) == [
        {"role": "system", "content": "S"},
        {"role": "user", "content": "a\n\nb\n\nc"},
        {"role": "assistant", "content": "", "reasoning_content": "Hm.", "tool_calls": [call]},
        {"role": "tool", "content": "Error: no", "tool_call_id": "t1"},
        {"role": "tool", "content": "", "tool_call_id": "t2"},
        {"role": "user", "content": "d\n\ne"},
    ]


def test_half_a_character_is_refused_where_it_is_no_text() -> None:
    for arguments in ("\ud83d", '{"a": "\ud83d'):
        call = {"type": "function_call", "call_id": "c", "name": "f", "arguments": arguments}
        with pytest.raises(ValidationError, match="JSON text"):
            read_items([call])


@pytest.mark.parametrize(
    ("cut", "value"),
    [
        (r'{"a": "x\ud83d', "x\ufffd"),
        (r'{"a": "x\ud83d\ud', "x\ufffd"),
        (r'{"a": "x\ud83d\ude00', "x\U0001f600"),
        (r'{"a": "x\\ud83d', r"x\ud83d"),
    ],
)
def test_arguments_may_be_cut_between_the_halves_of_a_character(cut: str, value: str) -> None:
    assert json.loads(whole_arguments(cut)) == {"a": value}


@pytest.mark.parametrize(
    ("fields", "budget", "effort"),
    [
        ({"thinking": {"type": "enabled", "budget_tokens": 9}}, 9, None),
        ({"thinking": {"type": "disabled"}}, None, "none"),
        ({"thinking": {"type": "adaptive"}, "output_config": {"effort": "max"}}, None, "max"),
        ({"output_config": {"effort": "low"}}, None, "low"),
        ({}, None, None),
    ],
)
def test_how_long_to_think(fields: dict[str, Any], budget: int | None, effort: str | None) -> None:
    user = {"role": "user", "content": "Hi"}
    chat = from_messages(user, **fields)
    assert (chat.reasoning_budget, chat.reasoning_effort) == (budget, effort)
    without = from_messages(user, thinks=False, **fields)
    assert (without.reasoning_budget, without.reasoning_effort) == (None, None)


@pytest.mark.parametrize("strict", [True, False, None])
def test_a_strict_function_stays_strict(strict: bool | None) -> None:
    schema = {"type": "object", "properties": {}}
    response = {"type": "function", "name": "f", "parameters": schema, "strict": strict}
    message = {"name": "f", "input_schema": schema, "strict": strict}
    for chat in (
        from_response(tools=[response]),
        from_messages({"role": "user", "content": "Hi"}, tools=[message]),
    ):
        assert chat.tools[0].function.strict is strict


def test_choices_among_tools() -> None:
    tools = [{"type": "function", "name": name} for name in ("f", "g", "h")]
    allowed = [{"type": "function", "name": "f"}, {"type": "function", "name": "h"}]
    choice = {"type": "allowed_tools", "mode": "required", "tools": allowed}
    chat = from_response(tools=tools, tool_choice=choice, parallel_tool_calls=False)
    assert [tool["function"]["name"] for tool in chat.callable_tools] == ["f", "h"]
    assert chat.must_call
    assert chat.parallel_tool_calls is False
    one = {"type": "tool", "name": "f", "disable_parallel_tool_use": True}
    tool = {"name": "f", "input_schema": {"type": "object"}}
    user = {"role": "user", "content": "Hi"}
    chat = from_messages(user, tools=[tool], tool_choice=one)
    assert chat.tool_choice.function.name == "f"
    assert chat.parallel_tool_calls is False
    with pytest.raises(RequestValidationError) as caught:
        from_messages(user, tools=[{**tool, "name": "a b"}])
    assert caught.value.errors()[0]["loc"] == ("tools", "0", "name")
