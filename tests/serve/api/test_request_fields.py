"""What clients send beside what they mean: nulls, fields without effect, answers sent back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import ValidationError

from tuneserve.serve.api.effort import BUDGETS, effort_of
from tuneserve.serve.api.protocol import (
    AllowedToolsChoice,
    ChatRequest,
    CompletionRequest,
    EmbeddingRequest,
)

MESSAGES = [{"role": "user", "content": "Hi"}]
TOOLS = [
    {"type": "function", "function": {"name": name, "strict": None, "description": None}}
    for name in ("f", "g")
]
CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}


def chat(**fields: Any) -> ChatRequest:
    return ChatRequest.model_validate({"messages": MESSAGES, **fields})


def text(**fields: Any) -> CompletionRequest:
    return CompletionRequest.model_validate({"prompt": "Hi", **fields})


def answered(**fields: Any) -> dict[str, Any]:
    """A message of the assistant's, as the template sees it."""
    message = {"role": "assistant", **fields}
    return chat(messages=[*MESSAGES, message]).messages[-1].as_template_sees_it()


def test_null_says_that_a_field_is_not_given() -> None:
    from openai.types.chat import ChatCompletionMessage

    given = dict.fromkeys([*ChatRequest.model_fields, "audio", "functions", "never_heard_of"])
    assert chat(**{**given, "messages": MESSAGES}) == chat()
    message = ChatCompletionMessage(role="assistant", content="Hello").model_dump()
    assert None in message.values()
    assert answered(**message) == {"role": "assistant", "content": "Hello"}
    options = {"include_usage": True, "include_obfuscation": None}
    assert chat(stream=True, stream_options=options).wants_usage
    assert chat(tools=TOOLS).callable_tools[0]["function"] == {"name": "f"}


def test_null_in_a_schema_is_a_value() -> None:
    schema = {"enum": [None, 1], "default": None}
    named = {"schema": schema, "strict": None}
    asked = chat(response_format={"type": "json_schema", "json_schema": named})
    assert asked.answer_schema == schema


@pytest.mark.parametrize(
    ("fields", "ignored"),
    [
        ({"store": True, "metadata": {"a": "b"}, "user": "me"}, ["store", "metadata", "user"]),
        ({"best_of": 1}, ["best_of"]),
        ({"n": 2, "best_of": 2}, ["best_of"]),
        ({"echo": False}, ["echo"]),
        ({"use_beam_search": False, "length_penalty": 1.0}, ["use_beam_search", "length_penalty"]),
        ({"mirostat_tau": 5.0, "mirostat_eta": 0.1}, ["mirostat_tau", "mirostat_eta"]),
        ({"modalities": ["text"], "verbosity": "medium"}, ["modalities", "verbosity"]),
        (
            {"stream": True, "stream_options": {"include_obfuscation": False}},
            ["stream_options.include_obfuscation"],
        ),
        (
            {"return_progress": True, "timings_per_token": True, "sse_ping_interval": 1,
             "reasoning_control": True, "reasoning_format": "auto"},
            ["return_progress", "timings_per_token", "sse_ping_interval", "reasoning_control",
             "reasoning_format"],
        ),
        ({}, []),
    ],
)  # fmt: skip
def test_what_changes_nothing_is_taken_and_named(
    fields: dict[str, Any], ignored: list[str]
) -> None:
    assert chat(**fields).ignored == ignored


def test_texts_and_embeddings_take_it_too() -> None:
    assert text(suffix="", best_of=1, echo=False).ignored == ["suffix", "best_of", "echo"]
    assert EmbeddingRequest.model_validate({"input": "x", "user": "me"}).ignored == ["user"]


def test_token_ids_are_not_looked_at_one_by_one() -> None:
    class Ids(list[int]):
        def __iter__(self) -> Iterator[int]:
            raise AssertionError("there may be a million")

    given = text(suffix="").model_copy(update={"prompt": Ids([5, 6])})
    assert given.ignored == ["suffix"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("best_of", 2), ("best_of", True), ("echo", True), ("suffix", "x"), ("min_tokens", 3),
        ("verbosity", "low"), ("modalities", ["text", "audio"]), ("mirostat", 2), ("audio", {}),
        ("use_beam_search", 0), ("typical_p", 0.5), ("functions", [{"name": "f"}]),
        ("web_search_options", {}),
    ],
)  # fmt: skip
def test_what_would_change_the_answer_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(ValidationError) as caught:
        chat(**{name: value})
    [error] = caught.value.errors()
    assert (error["loc"], error["type"]) == ((name,), "extra_forbidden")


@pytest.mark.parametrize(
    ("arguments", "seen"),
    [
        ('{"a": 1}', {"a": 1}),
        ('{"a": "x', {"a": "x"}),
        ('{"a": [1, {"b": tr', {"a": [1, {}]}),
        ('{"a": 1, "b', {"a": 1}),
        ("{", {}),
        ("", {}),
        (None, {}),
        ({"a": 1}, {"a": 1}),
    ],
)
def test_a_call_that_was_cut_can_be_sent_back(arguments: Any, seen: dict[str, Any]) -> None:
    call = {**CALL, "index": 0, "function": {"name": "f", "arguments": arguments}}
    [called] = answered(content=None, tool_calls=[call])["tool_calls"]
    assert called["function"]["arguments"] == seen


@pytest.mark.parametrize("arguments", ["no JSON", "[1]", '"x"', "[1, 2"])
def test_what_no_call_has_is_refused(arguments: str) -> None:
    with pytest.raises(ValidationError, match="must be"):
        answered(tool_calls=[{**CALL, "function": {"name": "f", "arguments": arguments}}])


@pytest.mark.parametrize(
    ("message", "seen"),
    [
        ({"content": None}, {"content": ""}),
        ({"content": "", "tool_calls": []}, {"content": ""}),
        ({"content": None, "refusal": "No."}, {"content": "No."}),
        ({"content": "A", "reasoning": "B"}, {"content": "A", "reasoning_content": "B"}),
        (
            {
                "content": [
                    {"type": "thinking", "thinking": "B", "signature": "s"},
                    {"type": "output_text", "text": "A", "annotations": []},
                    {"type": "refusal", "refusal": "C"},
                    {"type": "input_text", "text": "D", "cache_control": {"type": "ephemeral"}},
                ]
            },
            {"content": "ACD", "reasoning_content": "B"},
        ),
        ({"content": "A", "annotations": [], "parsed": {"a": 1}, "audio": None}, {"content": "A"}),
    ],
)
def test_messages_of_other_forms_are_understood(
    message: dict[str, Any], seen: dict[str, Any]
) -> None:
    assert answered(**message) == {"role": "assistant", **seen}


@pytest.mark.parametrize(
    ("fields", "bound"),
    [
        ({"guided_json": {"type": "array"}}, ("schema", {"type": "array"}, "guided_json")),
        ({"guided_json": '{"type": "array"}'}, ("schema", {"type": "array"}, "guided_json")),
        ({"json_schema": {"type": "array"}}, ("schema", {"type": "array"}, "json_schema")),
        ({"regex": "a+"}, ("regex", "a+", "regex")),
        ({"guided_choice": ["a", "b"]}, ("choice", ["a", "b"], "guided_choice")),
        ({"guided_grammar": "root ::= x"}, ("grammar", "root ::= x", "guided_grammar")),
        ({"structured_outputs": {"choice": ["a"]}}, ("choice", ["a"], "structured_outputs.choice")),
        (
            {"structured_outputs": {"json_object": True, "disable_fallback": False}},
            ("schema", {"type": "object"}, "structured_outputs.json_object"),
        ),
        (
            {"response_format": {"type": "json_object", "schema": {"type": "array"}}},
            ("schema", {"type": "array"}, "response_format"),
        ),
        (
            {"response_format": {"type": "json_schema", "schema": {"type": "array"}}},
            ("schema", {"type": "array"}, "response_format"),
        ),
        ({"response_format": {"type": "text"}}, None),
    ],
)
def test_what_the_answer_must_be_is_said_in_many_ways(
    fields: dict[str, Any], bound: tuple[str, Any, str] | None
) -> None:
    assert chat(**fields).bound == bound


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"guided_json": {}, "regex": "x"}, "guided_json and regex exclude each other"),
        ({"guided_json": "no JSON"}, "guided_json must be a JSON Schema"),
        ({"guided_json": "[1]"}, "guided_json must be a JSON Schema"),
        ({"repeat_penalty": 1, "repetition_penalty": 1}, "not both"),
        ({"continue_final_message": True}, "needs a last message of the assistant's"),
        ({"reasoning_effort": "low", "reasoning_budget": 1}, "not both"),
        ({"max_tokens": -2}, "greater than or equal to -1"),
    ],
)
def test_what_can_not_be_meant_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        chat(**fields)


@pytest.mark.parametrize(("given", "most"), [(None, 7), (0, 0), (-1, None), (5, 5)])
def test_the_longest_answer(given: int | None, most: int | None) -> None:
    for fields in ({"max_tokens": given}, {"max_completion_tokens": given}):
        assert chat(**fields).sampling(default_max_tokens=7).max_tokens == most
    assert text(max_tokens=given).sampling(default_max_tokens=7).max_tokens == most


def test_sampling_under_other_names() -> None:
    sampling = chat(repetition_penalty=1.3, ignore_eos=True, stop_token_ids=[5]).sampling(
        default_max_tokens=1
    )
    assert (sampling.repeat_penalty, sampling.ignore_end) == (1.3, True)
    assert sampling.stop_tokens == {5}
    assert text(logprobs=False).sampling(default_max_tokens=1).logprobs is None
    assert chat(logit_bias={"5": None}).sampling(default_max_tokens=1).logit_bias == {}
    assert chat(top_k=-1, top_p=0).sampling(default_max_tokens=1).top_p == 0
    with pytest.raises(ValidationError, match="repeat_penalty"):
        chat(repeat_penalty=1e-300)
    assert text(echo=True, logprobs=3).sampling(default_max_tokens=1).prompt_logprobs == 3
    assert text(logprobs=3).sampling(default_max_tokens=1).prompt_logprobs is None


def test_some_of_the_tools_are_allowed() -> None:
    named = {"type": "function", "function": {"name": "g"}}
    allowed = {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [named]}}
    asked = chat(tools=TOOLS, tool_choice=allowed)
    assert isinstance(asked.tool_choice, AllowedToolsChoice)
    assert asked.must_call
    assert [tool["function"]["name"] for tool in asked.callable_tools] == ["g"]
    assert chat(tools=TOOLS, tool_choice="any").must_call
    named["function"]["name"] = "nope"  # type: ignore[index]
    with pytest.raises(ValidationError, match="tool_choice names no tool: 'nope'"):
        chat(tools=TOOLS, tool_choice=allowed)


def test_effort_is_a_budget_or_a_variable_of_the_template() -> None:
    assert effort_of(None, "") == (None, {})
    assert [effort_of(word, "<think>").budget for word in BUDGETS] == [*BUDGETS.values()]
    assert effort_of("none", "{{ enable_thinking }}") == (0, {"enable_thinking": False})
    source = "{{ reasoning_effort }}"
    levels = {word: effort_of(word, source).variables["reasoning_effort"] for word in BUDGETS}
    assert levels == {
        "none": "low", "minimal": "low", "low": "low", "medium": "medium", "high": "high",
        "xhigh": "high", "max": "high",
    }  # fmt: skip
