"""The API as clients use it: the openai package, raw HTTP, and clients that misbehave."""

from __future__ import annotations

import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

QUESTION = [{"role": "user", "content": "What is 1+1?"}]


def chat_body(**fields: Any) -> dict[str, Any]:
    return {"model": "demo", "messages": QUESTION, "temperature": 0, "max_tokens": 16, **fields}


@pytest.fixture(scope="module")
def http(server: Any) -> Any:
    with httpx.Client(base_url=server.url, timeout=120) as client:
        yield client


def test_chat_whole_and_streamed_are_the_same(client: Any) -> None:
    whole = client.chat.completions.create(**chat_body())
    choice = whole.choices[0]
    assert "2" in choice.message.content
    assert choice.finish_reason == "stop"
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens
    stream = client.chat.completions.create(
        **chat_body(stream=True, stream_options={"include_usage": True})
    )
    chunks = list(stream)
    assert chunks[0].choices[0].delta.role == "assistant"
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == choice.message.content
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert chunks[-1].usage.prompt_tokens_details.cached_tokens > 0
    assert len({chunk.id for chunk in chunks}) == 1


def test_text_completion_of_text_ids_and_lists(client: Any, http: Any) -> None:
    options: dict[str, Any] = {"model": "demo", "temperature": 0, "max_tokens": 8}
    text = client.completions.create(prompt="The capital of France is", **options)
    assert "Paris" in text.choices[0].text
    many = client.completions.create(prompt=["One, two,", "The capital of France is"], **options)
    assert [choice.index for choice in many.choices] == [0, 1]
    assert many.choices[1].text[:6] == text.choices[0].text[:6]
    ids = client.completions.create(prompt=[504, 3575, 282, 4649, 314], **options)
    assert ids.usage.prompt_tokens == 5
    streamed = client.completions.create(prompt="The capital of France is", stream=True, **options)
    assert "".join(chunk.choices[0].text for chunk in streamed) == text.choices[0].text


def test_choices_differ_and_repeat_with_the_seed(client: Any) -> None:
    body = chat_body(n=3, temperature=1.5, seed=7, messages=[{"role": "user", "content": "Hi!"}])
    answers = client.chat.completions.create(**body)
    texts = [choice.message.content for choice in answers.choices]
    assert [choice.index for choice in answers.choices] == [0, 1, 2]
    assert len(set(texts)) > 1
    assert answers.usage.prompt_tokens < 60, "the prompt counts once"
    streamed: dict[int, str] = {}
    for chunk in client.chat.completions.create(**body, stream=True):
        for choice in chunk.choices:
            streamed.setdefault(choice.index, "")
            streamed[choice.index] += choice.delta.content or ""
    assert sorted(streamed) == [0, 1, 2]


def test_logprobs_are_alike_streamed_and_whole(client: Any) -> None:
    """They are those of the text's tokens, so without the end token."""
    body = chat_body(logprobs=True, temperature=0)
    (whole,) = client.chat.completions.create(**body).choices
    assert whole.finish_reason == "stop"
    told = [token.bytes for token in whole.logprobs.content]
    assert b"".join(map(bytes, told)).decode() == whole.message.content
    streamed = [
        token.bytes
        for chunk in client.chat.completions.create(**body, stream=True)
        for token in (chunk.choices[0].logprobs.content if chunk.choices[0].logprobs else ())
    ]
    assert streamed == told


def test_stop_and_logprobs(client: Any) -> None:
    body = chat_body(logprobs=True, top_logprobs=2, stop=[" ="])
    answer = client.chat.completions.create(**body).choices[0]
    assert answer.finish_reason == "stop"
    assert "=" not in answer.message.content
    tokens = answer.logprobs.content
    assert len(tokens[0].top_logprobs) == 2
    assert bytes(tokens[0].bytes).decode() == tokens[0].token
    text = client.completions.create(
        model="demo", prompt="One, two,", logprobs=1, max_tokens=4, temperature=0
    )
    listed = text.choices[0].logprobs
    assert "".join(listed.tokens) == text.choices[0].text
    assert listed.text_offset == [sum(map(len, listed.tokens[:i])) for i in range(4)]


def test_message_parts_and_the_developer_role(client: Any) -> None:
    parts = [{"type": "text", "text": "What is "}, {"type": "text", "text": "1+1?"}]
    messages = [
        {"role": "developer", "content": "Answer."},
        {"role": "user", "content": parts},
    ]
    plain = [{"role": "system", "content": "Answer."}, *QUESTION]
    body = {**chat_body(), "max_tokens": 1}
    as_text = client.chat.completions.create(**{**body, "messages": plain})
    as_parts = client.chat.completions.create(**{**body, "messages": messages})
    assert as_parts.usage.prompt_tokens == as_text.usage.prompt_tokens
    # The same text: all of it but the last token, which is always computed, was there already.
    cached = as_parts.usage.prompt_tokens_details.cached_tokens
    assert cached == as_text.usage.prompt_tokens - 1


def test_eight_clients_at_once_all_get_whole_answers(client: Any) -> None:
    questions = [f"What is {number} plus {number}?" for number in range(1, 9)]

    def ask(question: str) -> Any:
        messages = [{"role": "user", "content": question}]
        pieces = list(client.chat.completions.create(**chat_body(messages=messages, stream=True)))
        text = "".join(piece.choices[0].delta.content or "" for piece in pieces)
        return text, pieces[-1].choices[0].finish_reason

    alone = [ask(question) for question in questions]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(ask, questions))
    assert all(text and reason in ("stop", "length") for text, reason in together)
    # Rounding depends on the batch, and near ties may fall either way (test_serve_engine.py
    # compares with the model's own likelihoods); an answer that is another's would show here.
    assert any(a == b for a, b in zip(alone, together, strict=True))


def test_models_and_health(client: Any, http: Any) -> None:
    assert [model.id for model in client.models.list()] == ["demo"]
    assert client.models.retrieve("demo").owned_by == "tuneserve"
    assert http.get("/health").json() == {"status": "ok"}
    assert "/v1/chat/completions" in http.get("/openapi.json").json()["paths"]


@pytest.mark.parametrize(
    ("path", "body", "status", "param", "word"),
    [
        ("chat/completions", {"messages": QUESTION, "colour": 1}, 400, "colour", "not supported"),
        ("chat/completions", {"messages": []}, 400, "messages", "at least 1"),
        ("chat/completions", {}, 400, "messages", "required"),
        ("chat/completions", {"messages": QUESTION, "temperature": 9}, 400, "temperature", "2"),
        ("chat/completions", {"messages": QUESTION, "model": "demi"}, 404, "model", "'demo'"),
        ("chat/completions", {"messages": QUESTION, "stop": ""}, 400, "stop", "from 1 to"),
        ("chat/completions", {"messages": QUESTION, "top_logprobs": 2}, 400, None, "logprobs"),
        ("chat/completions", {"messages": QUESTION, "stream_options": {}}, 400, None, "stream"),
        ("completions", {"prompt": ""}, 400, "prompt", "empty"),
        ("completions", {"prompt": [999999]}, 400, "prompt", "vocabulary"),
        ("completions", {"prompt": "a", "logit_bias": {"x": 1}}, 400, "logit_bias", "token id"),
        ("completions", {"prompt": "a", "logit_bias": {"99999": 1}}, 400, "logit_bias", "vocab"),
        ("nowhere", {}, 404, None, "no such path"),
    ],
)
def test_bad_requests_are_told_what_is_wrong(
    http: Any, path: str, body: dict[str, Any], status: int, param: str | None, word: str
) -> None:
    answer = http.post(f"/v1/{path}", json=body)
    assert answer.status_code == status
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["param"] == param
    assert word in error["message"]


def test_other_refusals_have_the_same_shape(http: Any) -> None:
    broken = http.post("/v1/completions", content=b"{not json", headers=JSON)
    assert (broken.status_code, broken.json()["error"]["code"]) == (400, "invalid_json")
    assert http.get("/v1/completions").status_code == 405
    too_long = http.post("/v1/completions", json={"prompt": "word " * 5000})
    assert too_long.status_code == 400
    error = too_long.json()["error"]
    assert (error["code"], error["n_ctx"]) == ("context_length_exceeded", 4096)
    assert error["n_prompt_tokens"] > 4096
    large = http.post("/v1/completions", json={"prompt": "a" * 200_000})
    assert (large.status_code, large.json()["error"]["code"]) == (413, "request_too_large")
    pieces = (b"a" * 50_000 for _ in range(3))
    chunked = http.post("/v1/completions", content=pieces, headers=JSON)
    assert (chunked.status_code, chunked.json()["error"]["code"]) == (413, "request_too_large")


JSON = {"Content-Type": "application/json"}


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_frees_its_slot(server: Any, http: Any, stream: bool) -> None:
    body = json.dumps(
        {
            "prompt": "Once upon a time",
            "max_tokens": 3000,
            "stream": stream,
            "logit_bias": {"2": -100, "0": -100},
            "temperature": 0,
        }
    )
    request = (
        f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n{body}"
    )
    leaving = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(8)]
    for connection in leaving:
        connection.sendall(request.encode())
    time.sleep(1.0)
    for connection in leaving:
        connection.close()
    # All eight slots were taken for 3,000 tokens each: an answer now means they were freed.
    started = time.monotonic()
    assert http.post("/v1/chat/completions", json=chat_body(max_tokens=1)).status_code == 200
    assert time.monotonic() - started < 20
