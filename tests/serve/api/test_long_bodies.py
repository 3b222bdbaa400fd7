"""Long bodies are read apart: other requests go on, and the words are the same."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tuneserve.serve.api.json_route import LONG_BODY

MANY = 16_000
TURN = {"role": "user", "content": "a"}
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": [TURN] * MANY, "max_tokens": 1},
    "/v1/responses": {"input": [TURN] * MANY, "max_output_tokens": 16},
    "/v1/messages": {"messages": [TURN] * MANY, "max_tokens": 1},
}


@pytest.fixture(scope="module")
def server(
    demo_gguf: Path, start_server: Any, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[httpx.Client]:
    log = tmp_path_factory.mktemp("long") / "log"
    with (
        start_server(log, str(demo_gguf), "--name", "demo", "--ctx", "2048") as running,
        httpx.Client(base_url=running.url, timeout=120) as client,
    ):
        yield client


def test_very_many_messages_hold_up_nobody_who_looks(server: httpx.Client) -> None:
    bodies = [(path, json.dumps(body)) for path, body in BODIES.items()]
    headers = {"Content-Type": "application/json"}
    longest, began = 0.0, time.monotonic()
    with ThreadPoolExecutor(6) as pool:
        asked = [
            pool.submit(server.post, path, content=body, headers=headers)
            for path, body in bodies * 2
        ]
        while not all(one.done() for one in asked):
            before = time.monotonic()
            assert server.get("/health").status_code == 200
            longest = max(longest, time.monotonic() - before)
            time.sleep(0.02)
    took = time.monotonic() - began
    # Read, and then longer than the context or what a run of the user's is taken as.
    assert {one.result().status_code for one in asked} <= {200, 400}
    assert longest < max(1.0, took / 8)


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize(
    "wrong",
    [
        {"role": "nobody", "content": "a"},
        {"role": "user", "content": 3},
        {"role": "user", "content": "a", "colour": 1},
    ],
)
def test_what_is_wrong_is_told_as_for_a_short_one(
    server: httpx.Client, path: str, wrong: dict[str, Any]
) -> None:
    (field,) = {"messages", "input"} & set(BODIES[path])
    told = []
    for text in ("a", "a" * LONG_BODY):
        turns = [{"role": "user", "content": text}, wrong]
        answer = server.post(path, json={**BODIES[path], field: turns})
        assert answer.status_code == 400
        told.append(answer.json()["error"])
    assert told[0] == told[1]


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses"])
def test_more_turns_than_tokens_are_counted_and_not_rendered(
    server: httpx.Client, path: str
) -> None:
    (field,) = {"messages", "input"} & set(BODIES[path])
    answer = server.post(path, json=BODIES[path])
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (400, "context_length_exceeded")
    assert (error["param"], error["n_prompt_tokens"]) == (field, MANY)


def test_more_items_than_tokens_that_are_few_turns_are_answered(server: httpx.Client) -> None:
    turns = [{"role": "assistant", "content": ""}] * 3000
    answer = server.post("/v1/responses", json={"input": [*turns, TURN], "max_output_tokens": 1})
    assert answer.status_code == 200, answer.text


def test_a_long_body_that_is_no_json_is_refused(server: httpx.Client) -> None:
    content = '{"messages": [' + "1," * LONG_BODY
    headers = {"Content-Type": "application/json"}
    answer = server.post("/v1/chat/completions", content=content, headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_json")


@pytest.mark.parametrize("path", BODIES)
def test_a_long_body_is_answered(server: httpx.Client, path: str) -> None:
    (field,) = {"messages", "input"} & set(BODIES[path])
    content = json.dumps({**BODIES[path], field: [TURN], "model": "demo"}) + " " * LONG_BODY
    headers = {"Content-Type": "application/json"}
    answer = server.post(path, content=content, headers=headers)
    assert answer.status_code == 200, answer.text


def test_what_is_asked_for_too_often_is_refused_before_it_is_computed(
    server: httpx.Client,
) -> None:
    began = time.monotonic()
    answer = server.post("/v1/completions", json={"prompt": ["some words"] * 200_000})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "prompt")
    assert "At most" in answer.json()["error"]["message"]
    assert time.monotonic() - began < 4


@pytest.mark.parametrize("field", ["guided_json", "json_schema"])
def test_a_schema_given_as_a_very_long_text_is_not_read(server: httpx.Client, field: str) -> None:
    text = f"[{'[],' * 200_000}[]]"
    answer = server.post("/v1/completions", json={"prompt": "a", field: text})
    assert answer.status_code == 400
    assert "characters" in answer.json()["error"]["message"]


def lists(many: int) -> str:
    """JSON of an object with so many lists."""
    return '{"a": [' + ",".join(["[]"] * many) + "]}"


def with_calls(path: str, *arguments: str) -> dict[str, Any]:
    """A request with calls of an earlier answer."""
    if path == "/v1/responses":
        call = {"type": "function_call", "call_id": "c", "name": "f"}
        return {"input": [TURN, *({**call, "arguments": one} for one in arguments)]}
    calls = [
        {"id": "c", "type": "function", "function": {"name": "f", "arguments": one}}
        for one in arguments
    ]
    return {"messages": [TURN, {"role": "assistant", "tool_calls": calls}], "max_tokens": 1}


PLACES = {
    "/v1/chat/completions": "messages.1.tool_calls.{}.function.arguments",
    "/v1/responses": "input.{}.arguments",
}


@pytest.mark.parametrize("path", PLACES)
@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ([lists(5_000_000)], "It has more than 4194304 characters."),
        ([lists(1_000_000)], "It has more than 50000 lists and objects."),
        ([lists(1_000_000)[:-2]], "It has more than 50000 lists and objects."),
        ([lists(30_000)] * 2, "With the JSON texts before it, it has more than 50000 lists and"),
        (['{"a": ' + "[" * 101 + "]" * 101 + "}"], "It is nested more than 100 levels deep."),
    ],
)
def test_json_within_a_text_keeps_the_limits(
    server: httpx.Client, path: str, arguments: list[str], reason: str
) -> None:
    answer = server.post(path, json=with_calls(path, *arguments))
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (400, "invalid_value")
    assert reason in error["message"]
    place = len(arguments) - 1 + (path == "/v1/responses")
    assert error["param"].replace("[", ".").replace("]", "") == PLACES[path].format(place)


def test_a_schema_within_a_text_keeps_them_too(server: httpx.Client) -> None:
    for field in ("guided_json", "json_schema"):
        body = {"messages": [TURN], "max_tokens": 1, field: lists(60_000)}
        answer = server.post("/v1/chat/completions", json=body)
        assert answer.status_code == 400
        told = answer.json()["error"]["message"]
        assert f"{field}: It has more than 50000 lists and objects." in told


@pytest.mark.parametrize("path", PLACES)
def test_text_that_looks_like_json_is_no_structure(server: httpx.Client, path: str) -> None:
    """A call that writes a file of code: it is too long for this context, and no more."""
    code = json.dumps({"code": "[{x:1,}]" * 100_000})
    answer = server.post(path, json=with_calls(path, code))
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (400, "context_length_exceeded")
