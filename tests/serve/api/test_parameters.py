"""docs/openai-parameters.md against the installed client and the server's own schema."""

from __future__ import annotations

import inspect
import re
from typing import Any

import openai
import pytest
from pydantic import ValidationError

from tests.support import ROOT
from tuneserve.serve.api.protocol import ChatRequest, TokenizeRequest

TABLE = ROOT / "docs" / "openai-parameters.md"
TRANSPORT = {"self", "extra_headers", "extra_query", "extra_body", "timeout"}
TOOL = {"type": "function", "function": {"name": "f"}}
CALL = {"type": "function", "function": {"name": "f", "arguments": "{}"}}
MESSAGES = [{"role": "user", "content": "Hi"}]
EXAMPLES: dict[str, dict[str, Any]] = {
    "messages": {},
    "model": {"model": "demo"},
    "metadata": {"metadata": {"a": "b"}},
    "modalities": {"modalities": ["text"]},
    "prediction": {"prediction": {"type": "content", "content": "x"}},
    "reasoning_effort": {"reasoning_effort": "none"},
    "store": {"store": True},
    "verbosity": {"verbosity": "medium"},
    "audio": {"audio": {"format": "wav", "voice": "alloy"}},
    "frequency_penalty": {"frequency_penalty": 0.5},
    "function_call": {"function_call": {"name": "f"}},
    "functions": {"functions": [{"name": "f"}]},
    "logit_bias": {"logit_bias": {"5": -100}},
    "logprobs": {"logprobs": True},
    "max_completion_tokens": {"max_completion_tokens": 5},
    "max_tokens": {"max_tokens": 5},
    "n": {"n": 2},
    "parallel_tool_calls": {"tools": [TOOL], "parallel_tool_calls": False},
    "presence_penalty": {"presence_penalty": 0.5},
    "response_format": {"response_format": {"type": "json_object"}},
    "seed": {"seed": 1},
    "stop": {"stop": ["a", "b"]},
    "stream": {"stream": True},
    "stream_options": {"stream": True, "stream_options": {"include_usage": True}},
    "temperature": {"temperature": 0.5},
    "tool_choice": {"tools": [TOOL], "tool_choice": TOOL},
    "tools": {"tools": [TOOL]},
    "top_logprobs": {"logprobs": True, "top_logprobs": 3},
    "top_p": {"top_p": 0.9},
    "user": {"user": "someone"},
}
OTHER = "x"
"""Value of parameters that are refused, or have no effect, whatever their value."""


def table() -> dict[str, str]:
    rows = re.findall(r"(?m)^\| `(\w+)` \| (accepted|refused) \|", TABLE.read_text())
    return dict(rows)


def test_the_table_has_every_parameter_of_the_client() -> None:
    from openai.resources.chat.completions import Completions

    assert set(table()) == set(inspect.signature(Completions.create).parameters) - TRANSPORT


@pytest.mark.parametrize(("name", "said"), table().items())
def test_the_table_says_what_the_server_does(name: str, said: str) -> None:
    request = {"messages": MESSAGES, **EXAMPLES.get(name, {name: OTHER})}
    if said == "accepted":
        ChatRequest.model_validate(request)
        return
    with pytest.raises(ValidationError) as caught:
        ChatRequest.model_validate(request)
    assert [error["loc"] for error in caught.value.errors()] == [(name,)]


@pytest.mark.parametrize(("name", "said"), table().items())
def test_the_client_sees_what_the_table_says(client: Any, name: str, said: str) -> None:
    request = {
        "model": "demo", "messages": MESSAGES, "max_tokens": 4,
        **EXAMPLES.get(name, {name: OTHER}),
    }  # fmt: skip
    if "max_completion_tokens" in request:
        del request["max_tokens"]
    if said == "refused":
        with pytest.raises(openai.BadRequestError) as caught:
            client.chat.completions.create(**request)
        assert caught.value.param == name
        return
    answer = client.chat.completions.create(**request)
    if request.get("stream"):
        chunks = list(answer)
        assert chunks[0].choices[0].delta.role == "assistant"
        assert (chunks[-1].usage is not None) is ("stream_options" in request)
    else:
        assert len(answer.choices) == request.get("n", 1)
        assert 1 <= answer.usage.completion_tokens <= 5 * request.get("n", 1)
        assert (answer.choices[0].logprobs is not None) is ("logprobs" in request)


FORMAT = {"response_format": {"type": "json_object"}}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"max_tokens": 1, "max_completion_tokens": 1}, "give max_tokens or max_completion_tokens"),
        ({"stream_options": {"include_usage": True}}, "stream_options needs stream to be true"),
        ({"top_logprobs": 2}, "top_logprobs needs logprobs to be true"),
        (
            {"tools": [TOOL], "tool_choice": "required", **FORMAT},
            "a required tool call and response_format exclude each other",
        ),
        (
            {"tools": [TOOL], "tool_choice": "required", "grammar": 'root ::= "a"'},
            "a required tool call and grammar exclude each other",
        ),
        (
            {"grammar": 'root ::= "a"', **FORMAT},
            "grammar and response_format exclude each other",
        ),
        (
            {"messages": [{**MESSAGES[0], "tool_calls": [{**CALL, "id": "1"}]}]},
            "only the assistant has tool_calls",
        ),
        (
            {"messages": [{**MESSAGES[0], "tool_call_id": "1"}]},
            "a message of role tool, and no other, has a tool_call_id",
        ),
    ],
)
def test_fields_that_contradict_each_other_are_refused(
    fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValidationError, match=message):
        ChatRequest.model_validate({"messages": MESSAGES, **fields})


@pytest.mark.parametrize("fields", [{}, {"content": "x", "messages": MESSAGES}])
def test_one_thing_is_tokenized(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="give content or messages"):
        TokenizeRequest.model_validate(fields)


def test_images_and_audio_in_messages_are_refused() -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}}
    with pytest.raises(ValidationError):
        ChatRequest.model_validate({"messages": [{"role": "user", "content": [image]}]})
