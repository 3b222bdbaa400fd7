"""Thoughts, text and calls as blocks of the agents' APIs: the same whole and streamed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from tuneserve.serve.api.anthropic.writer import MessageWriter
from tuneserve.serve.api.errors import ApiError
from tuneserve.serve.api.openai_responses.protocol import ResponsesRequest
from tuneserve.serve.api.openai_responses.store import ResponseStore, StoredItems
from tuneserve.serve.api.openai_responses.writer import ResponseWriter
from tuneserve.serve.api.prepare import Turn
from tuneserve.serve.api.replica import stored_id
from tuneserve.serve.api.writers import Writer
from tuneserve.serve.engine import Completion, Delta, SamplingParams, Timings, TokenLogprob

EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
CALL = '<tool_call>{"name": "f", "arguments": {"x": 1}}</tool_call>'
ALL = f"<think>\nso it is\n</think>\n\nLet me look.\n{CALL}\n"


class Bytes:
    """A vocabulary in which a token is a byte."""

    def token_bytes(self, token: int, *, special: bool = True) -> bytes:
        return bytes([token])

    def is_end(self, token: int) -> bool:
        return token == 0


MODEL: Any = Bytes()


def turn_of(**sampling: Any) -> Turn:
    return Turn([1, 2, 3], SamplingParams(thoughts="may", **sampling), calls=True)


def completion_of(text: str, *, logprobs: bool = False, reason: Any = "stop") -> Completion:
    tokens = (*text.encode(), 0)
    probabilities = tuple(TokenLogprob(token, -0.5) for token in tokens) if logprobs else ()
    return Completion(text, tokens, reason, 3, 2, Timings(0.0, 0.1, 0.2), probabilities)


def streamed(writer: Writer, text: str, *, logprobs: bool = False, reason: Any = "stop") -> Any:
    """The events of a text of which every byte is a step."""
    body = writer.first(0)
    for token in text.encode():
        told = (TokenLogprob(token, -0.5),) if logprobs else ()
        body += writer.delta(0, Delta(chr(token), (token,), told))
    completion = completion_of(text, logprobs=logprobs, reason=reason)
    body += writer.last(0, completion) + writer.end([completion], include_usage=False)
    return list(events(body))


def events(body: bytes) -> Iterator[dict[str, Any]]:
    for block in body.decode().strip().split("\n\n"):
        yield json.loads(block.partition("\ndata: ")[2])


def response_writer(**fields: Any) -> ResponseWriter:
    body = ResponsesRequest.model_validate({"input": "Hi", **fields})
    return ResponseWriter(
        "demo", MODEL, turn_of(), body, lambda _: None, partial(stored_id, replica=None)
    )


@pytest.mark.parametrize("summary", [None, "auto"])
def test_items_of_a_response(summary: str | None) -> None:
    fields = {"reasoning": {"summary": summary}}
    whole = json.loads(response_writer(**fields).whole([completion_of(ALL)]))
    Response.model_validate(whole)
    thoughts, message, call = whole["output"]
    part = thoughts["summary"] if summary else thoughts["content"]
    assert [one["text"] for one in part] == ["so it is"]
    assert message["content"][0]["text"] == "Let me look."
    assert (call["name"], call["arguments"]) == ("f", '{"x": 1}')
    spent = whole["usage"]["output_tokens_details"]["reasoning_tokens"]
    assert spent == len(ALL.partition("Let me look.")[0])
    told = streamed(response_writer(**fields), ALL)
    for event in told:
        EVENT.validate_python(event, strict=False)
    kinds = [event["type"].removeprefix("response.") for event in told]
    once = [kind for place, kind in enumerate(kinds) if kind != kinds[place - 1]]
    name = "reasoning_summary_part" if summary else "content_part"
    text = "reasoning_summary_text" if summary else "reasoning_text"
    assert once == [
        "created", "in_progress",
        "output_item.added", f"{name}.added", f"{text}.delta", f"{text}.done", f"{name}.done",
        "output_item.done",
        "output_item.added", "content_part.added", "output_text.delta", "output_text.done",
        "content_part.done", "output_item.done",
        "output_item.added", "function_call_arguments.delta", "function_call_arguments.done",
        "output_item.done", "completed",
    ]  # fmt: skip
    last = told[-1]["response"]
    assert last["usage"] == whole["usage"]
    unlike = ("id", "call_id")
    for ours, theirs in zip(whole["output"], last["output"], strict=True):
        assert {k: v for k, v in ours.items() if k not in unlike} == {
            k: v for k, v in theirs.items() if k not in unlike
        }
    items = [event["item"] for event in told if event["type"] == "response.output_item.done"]
    assert items == last["output"]


def test_log_probabilities_are_those_of_the_text() -> None:
    fields = {"include": ["message.output_text.logprobs"]}
    text = "<think>so</think>Hi ho"
    whole = json.loads(response_writer(**fields).whole([completion_of(text, logprobs=True)]))
    told = streamed(response_writer(**fields), text, logprobs=True)[-1]["response"]
    for response in (whole, told):
        tokens = response["output"][1]["content"][0]["logprobs"]
        assert "".join(one["token"] for one in tokens) == "Hi ho"


def test_blocks_of_a_message() -> None:
    whole = json.loads(MessageWriter("demo", MODEL, turn_of()).whole([completion_of(ALL)]))
    thinking, text, use = whole["content"]
    assert (thinking["type"], thinking["thinking"]) == ("thinking", "so it is")
    assert thinking["signature"], "clients send no thoughts back that lack one"
    assert text == {"type": "text", "text": "Let me look."}
    assert (use["name"], use["input"]) == ("f", {"x": 1})
    assert whole["stop_reason"] == "tool_use"
    assert whole["usage"]["output_tokens_details"]["thinking_tokens"] > 0
    told = streamed(MessageWriter("demo", MODEL, turn_of()), ALL)
    kinds = [event.get("delta", {}).get("type", event["type"]) for event in told]
    once = [kind for place, kind in enumerate(kinds) if kind != kinds[place - 1]]
    assert once == [
        "message_start", "ping",
        "content_block_start", "thinking_delta", "signature_delta", "content_block_stop",
        "content_block_start", "text_delta", "content_block_stop",
        "content_block_start", "input_json_delta", "content_block_stop",
        "message_delta", "message_stop",
    ]  # fmt: skip
    indices = [event["index"] for event in told if event["type"] == "content_block_start"]
    assert indices == [0, 1, 2]
    hidden = MessageWriter("demo", MODEL, turn_of(), show_thoughts=False)
    shown = json.loads(hidden.whole([completion_of(ALL)]))["content"][0]
    assert (shown["thinking"], shown["signature"]) == ("", thinking["signature"])


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("", ["message"]),
        (" \n", ["message"]),
        ("<think>so", ["reasoning"]),
        (f"\n{CALL}\n{CALL}", ["function_call", "function_call"]),
        ("Hi\n\nho\n", ["message"]),
    ],
)
def test_white_space_and_what_is_empty(text: str, kinds: list[str]) -> None:
    whole = json.loads(response_writer().whole([completion_of(text, reason="length")]))
    assert [item["type"] for item in whole["output"]] == kinds
    assert [item["status"] for item in whole["output"]][-1] == whole["status"] == "incomplete"
    if kinds == ["message"]:
        assert whole["output"][0]["content"][0]["text"] == text
    last = streamed(response_writer(), text, reason="length")[-1]
    assert [item["type"] for item in last["response"]["output"]] == kinds


def test_a_stream_that_fails_says_so_in_each_form() -> None:
    error = ApiError(503, "llama.cpp failed", code="engine_failed")
    response = response_writer()
    response.first(0)
    told = list(events(response.failure(error)))
    for event in told:
        EVENT.validate_python(event, strict=False)
    assert [event["type"] for event in told] == ["error", "response.failed"]
    assert told[-1]["response"]["error"]["message"] == "llama.cpp failed"
    [message] = events(MessageWriter("demo", MODEL, turn_of()).failure(error))
    assert (message["type"], message["error"]["type"]) == ("error", "overloaded_error")


def response_of(number: int, text: str = "x" * 100) -> dict[str, Any]:
    return {"id": f"resp_{number}", "output": [{"id": f"msg_{number}", "text": text}]}


def test_the_store_is_bounded_and_keeps_what_is_used() -> None:
    store = ResponseStore(1000)
    for number in range(5):
        store.put("me", response_of(number), StoredItems.of([{"id": "msg_in"}]))
    assert store.get("me", "resp_0", param="p").items == [
        {"id": "msg_in"},
        *response_of(0)["output"],
    ]
    store.put("me", response_of(5), StoredItems.of([]))
    store.put("me", response_of(6), StoredItems.of([]))
    assert store.size <= 1000
    assert store.get("me", "resp_0", param="p")
    for gone in ("resp_1", "resp_9"):
        with pytest.raises(ApiError, match="no response") as caught:
            store.get("me", gone, param="p")
        assert caught.value.status_code == 404
    with pytest.raises(ApiError, match="no item"):
        store.item("me", "msg_1")
    for owner in ("you", ""):
        with pytest.raises(ApiError, match="no response"):
            store.get(owner, "resp_0", param="p")
        with pytest.raises(ApiError, match="no item"):
            store.item(owner, "msg_0")
    store.put("me", response_of(7, "x" * 2000), StoredItems.of([]))
    with pytest.raises(ApiError, match="no response"):
        store.get("me", "resp_7", param="p")
    for number in range(7):
        if number != 1:
            store.delete("me", f"resp_{number}")
    assert (store.size, len(store)) == (0, 0)
