"""/v1/responses as the openai client uses it, and as raw HTTP shows it."""

from __future__ import annotations

import json
from typing import Any, Literal

import httpx
import openai
import pytest
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import BaseModel, TypeAdapter

EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
TOOLS = [
    {
        "type": "function",
        "name": "get_weather",
        "description": "Weather of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}},
            "required": ["city"],
            "additionalProperties": False,
        },
        "strict": True,
    }
]
ASKED = {"model": "demo", "temperature": 0, "max_output_tokens": 64}


@pytest.fixture(scope="module")
def http(server: Any) -> Any:
    with httpx.Client(base_url=server.url, timeout=120) as client:
        yield client


def events_of(http: Any, **fields: Any) -> list[dict[str, Any]]:
    """The events of a streamed response, each checked against the client's own types."""
    answer = http.post("/v1/responses", json={**ASKED, **fields, "stream": True})
    assert answer.status_code == 200, answer.text
    found = []
    for block in answer.text.strip().split("\n\n"):
        name, _, data = block.partition("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        EVENT.validate_python(event, strict=False)
        found.append(event)
    assert [event["sequence_number"] for event in found] == list(range(len(found)))
    return found


def whole(http: Any, **fields: Any) -> dict[str, Any]:
    answer = http.post("/v1/responses", json={**ASKED, **fields})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    Response.model_validate(found)
    return found


def test_a_text_whole_and_streamed(http: Any) -> None:
    response = whole(http, input="What is 1+1?", store=False)
    [message] = response["output"]
    assert (response["status"], message["status"]) == ("completed", "completed")
    assert "2" in message["content"][0]["text"]
    usage = response["usage"]
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]
    events = events_of(http, input="What is 1+1?", store=False)
    kinds = [event["type"].removeprefix("response.") for event in events]
    deltas = kinds.count("output_text.delta")
    assert kinds == [
        "created", "in_progress", "output_item.added", "content_part.added",
        *["output_text.delta"] * deltas,
        "output_text.done", "content_part.done", "output_item.done", "completed",
    ]  # fmt: skip
    last = events[-1]["response"]
    text = message["content"][0]["text"]
    assert "".join(e["delta"] for e in events if "delta" in e) == text
    assert last["output"][0]["content"] == message["content"]
    assert last["usage"]["input_tokens_details"]["cached_tokens"] > 0
    assert last["usage"]["output_tokens"] == usage["output_tokens"]


def test_an_answer_that_is_cut_is_incomplete(client: Any) -> None:
    response = client.responses.create(
        model="demo", input=[{"role": "user", "content": "Tell a story."}], max_output_tokens=4
    )
    assert response.status == response.output[0].status == "incomplete"
    assert response.incomplete_details.reason == "max_output_tokens"
    assert response.usage.output_tokens == 4


def test_tools_round_trip(client: Any, http: Any) -> None:
    asked = {"role": "user", "content": "What is the weather in Paris?"}
    options: dict[str, Any] = {
        **ASKED, "tools": TOOLS, "store": False, "parallel_tool_calls": False,
        "max_output_tokens": 48,
    }  # fmt: skip
    first = client.responses.create(input=[asked], tool_choice="required", **options)
    calls = [item for item in first.output if item.type == "function_call"]
    assert json.loads(calls[0].arguments)["city"] in ("Paris", "Rome")
    assert calls[0].name == "get_weather"
    result = {"type": "function_call_output", "call_id": calls[0].call_id, "output": "12 degrees"}
    # What the client library makes of an answer can be sent back: its objects and all their fields.
    for items in (first.output, [item.model_dump() for item in first.output]):
        second = client.responses.create(
            input=[asked, *items, result], tool_choice="none", **options
        )
        assert second.output_text
    events = events_of(
        http,
        input=[asked],
        tools=TOOLS,
        tool_choice="required",
        max_output_tokens=48,
        parallel_tool_calls=False,
    )
    kinds = [event["type"].removeprefix("response.") for event in events]
    assert kinds[2:4] == ["output_item.added", "function_call_arguments.delta"]
    assert kinds[-3:] == ["function_call_arguments.done", "output_item.done", "completed"]
    done = next(e for e in events if e["type"] == "response.function_call_arguments.done")
    assert json.loads(done["arguments"])["city"] in ("Paris", "Rome")
    choice = {
        "type": "allowed_tools", "mode": "required",
        "tools": [{"type": "function", "name": "get_weather"}],
    }  # fmt: skip
    allowed = client.responses.create(input=[asked], tool_choice=choice, **options)
    assert allowed.output[0].type == "function_call"


def test_functions_of_a_namespace(client: Any, http: Any) -> None:
    options: dict[str, Any] = {
        "tools": [{"type": "namespace", "name": "sky", "description": "The sky", "tools": TOOLS}],
        "tool_choice": "required",
        "parallel_tool_calls": False,
        "max_output_tokens": 128,
    }
    asked = {"role": "user", "content": "What is the weather in Paris?"}
    [call] = whole(http, input=[asked], **options)["output"]
    assert (call["namespace"], call["name"]) == ("sky", "get_weather")
    events = events_of(http, input=[asked], **options)
    assert events[2]["item"]["namespace"] == "sky"
    result = {"type": "function_call_output", "call_id": call["call_id"], "output": "12 degrees"}
    prompt = http.post("/v1/responses/input_tokens", json={"input": [asked, call, result]}).json()
    bare = {**call, "namespace": None}
    shorter = http.post("/v1/responses/input_tokens", json={"input": [asked, bare, result]}).json()
    assert prompt["input_tokens"] > shorter["input_tokens"]


def test_a_call_that_was_cut_can_be_sent_back(client: Any) -> None:
    asked = {"role": "user", "content": "What is the weather in Paris?"}
    options: dict[str, Any] = {"model": "demo", "tools": TOOLS, "temperature": 0}
    cut = client.responses.create(
        input=[asked], tool_choice="required", max_output_tokens=22, **options
    )
    assert cut.status == "incomplete"
    [call] = [item for item in cut.output if item.type == "function_call"]
    assert call.status == "incomplete"
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "cut"}
    second = client.responses.create(
        input=[asked, *cut.output, result], max_output_tokens=4, **options
    )
    assert second.output


class Weather(BaseModel):
    city: Literal["Paris", "Rome"]
    warm: bool


def test_structured_answers(client: Any) -> None:
    parsed = client.responses.parse(
        model="demo", input="Weather in Rome?", text_format=Weather, max_output_tokens=128
    )
    assert isinstance(parsed.output_parsed, Weather)
    with client.responses.stream(
        model="demo", input="Weather in Rome?", text_format=Weather, max_output_tokens=128
    ) as stream:
        for _ in stream:
            pass
        assert isinstance(stream.get_final_response().output_parsed, Weather)
    loose = client.responses.create(
        model="demo", input="Some JSON?", max_output_tokens=48, temperature=0,
        text={"format": {"type": "json_object"}, "verbosity": "medium"},
    )  # fmt: skip
    assert loose.output_text.startswith("{")


def test_a_response_goes_on_from_a_stored_one(client: Any, http: Any) -> None:
    first = client.responses.create(input="My name is Ada.", metadata={"a": "b"}, **ASKED)
    assert client.responses.retrieve(first.id).output == first.output
    second = client.responses.create(
        input="What is my name?", previous_response_id=first.id, **ASKED
    )
    assert second.previous_response_id == first.id
    # The conversation so far is found in the prefix cache.
    cached = second.usage.input_tokens_details.cached_tokens
    assert cached >= first.usage.input_tokens
    items = list(client.responses.input_items.list(second.id, order="asc", limit=2))
    assert [item.role for item in items] == ["user", "assistant", "user"]
    assert items[1].content[0].text == first.output_text
    referred = [
        {"role": "user", "content": "My name is Ada."},
        {"type": "item_reference", "id": first.output[0].id},
        {"role": "user", "content": "What is my name?"},
    ]
    as_sent = client.responses.create(input=referred, **ASKED)
    assert as_sent.usage.input_tokens == second.usage.input_tokens
    counted = client.responses.input_tokens.count(model="demo", input=referred)
    assert counted.input_tokens == second.usage.input_tokens
    with pytest.raises(openai.BadRequestError, match="background"):
        client.responses.cancel(first.id)
    client.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError, match="There is no response") as caught:
        client.responses.create(input="Hi", previous_response_id=first.id, **ASKED)
    assert caught.value.param == "previous_response_id"
    with pytest.raises(openai.NotFoundError, match="There is no item"):
        client.responses.create(input=referred, **ASKED)
    kept_not = client.responses.create(input="Hi", store=False, **ASKED)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(kept_not.id)


def test_log_probabilities_are_the_same_in_both_forms(http: Any) -> None:
    asked = {
        "input": "What is 1+1?", "include": ["message.output_text.logprobs"], "top_logprobs": 2,
    }  # fmt: skip
    part = whole(http, **asked)["output"][0]["content"][0]
    assert "".join(one["token"] for one in part["logprobs"]) == part["text"]
    assert all(len(one["top_logprobs"]) == 2 for one in part["logprobs"])
    events = events_of(http, **asked)
    deltas = [e for e in events if e["type"] == "response.output_text.delta"]
    streamed = [one["token"] for event in deltas for one in event["logprobs"]]
    assert streamed == [one["token"] for one in part["logprobs"]]


def test_what_changes_nothing_is_told(http: Any) -> None:
    fields = {
        "input": "Hi", "user": "u", "safety_identifier": "s", "truncation": "auto",
        "prompt_cache_key": "k", "service_tier": "auto", "max_output_tokens": 1, "text": None,
        "tools": None, "include": ["reasoning.encrypted_content"], "parallel_tool_calls": None,
    }  # fmt: skip
    answer = http.post("/v1/responses", json={"model": "demo", **fields})
    assert answer.status_code == 200
    assert set(answer.headers["x-tuneserve-ignored"].split(", ")) == {
        "user", "safety_identifier", "truncation", "prompt_cache_key", "service_tier",
        "include.reasoning.encrypted_content",
    }  # fmt: skip
    assert answer.json()["prompt_cache_key"] == "k"


@pytest.mark.parametrize(
    ("fields", "param", "word"),
    [
        ({"tools": [{"type": "web_search"}]}, "tools.0", "'web_search'"),
        ({"background": True}, "background", "background"),
        ({"conversation": "conv_1"}, "conversation", "not supported"),
        ({"input": [{"type": "computer_call"}]}, "input.0", "'computer_call'"),
        ({"input": []}, "input", "at least 1"),
        ({"tool_choice": {"type": "file_search"}}, "tool_choice", "'file_search'"),
        ({"tools": TOOLS, "tool_choice": {"type": "function", "name": "g"}}, None, "'g'"),
        (
            {"text": {"format": {"type": "json_schema", "schema": {"not": {"type": "null"}}}}},
            "text.format",
            "enforced",
        ),
        ({"input": "word " * 5000}, "input", "tokens"),
    ],
)
def test_what_is_refused(http: Any, fields: dict[str, Any], param: str | None, word: str) -> None:
    answer = http.post("/v1/responses", json={**ASKED, "input": "Hi", **fields})
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert error["param"] == param
    assert word in error["message"]
