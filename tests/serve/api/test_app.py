"""The application in this process: defects, clients that leave, and what runs beside the loop."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from tuneserve.serve.api.app import create_app
from tuneserve.serve.api.metrics import Metrics
from tuneserve.serve.api.middleware import AccessLog
from tuneserve.serve.api.service import Service
from tuneserve.serve.engine import SamplingParams
from tuneserve.settings import ServeSettings

pytestmark = pytest.mark.slow

CHAT = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1, "temperature": 0}
LONG = [{"role": "user", "content": "x " * 2000}]
TEXT = {"prompt": "Once upon a time", "temperature": 0, "logit_bias": {"2": -100, "0": -100}}


@pytest.fixture(scope="module")
def service(demo_gguf: Path, lora_gguf: Path) -> Iterator[Service]:
    settings = ServeSettings(ctx=1024, slots=2, threads=1, embeddings=True, log="off")
    service = Service(demo_gguf, "demo", settings, adapters={"loud": lora_gguf})
    yield service
    service.close()


@pytest.fixture(scope="module")
def app(service: Service) -> FastAPI:
    return create_app(service)


def post(
    app: FastAPI, service: Service, path: str, body: dict[str, Any], *, method: str = "POST"
) -> httpx.Response:
    async def ask() -> httpx.Response:
        service.bridge.attach(asyncio.get_running_loop())
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await client.request(method, path, json=body, timeout=60)

    return asyncio.run(ask())


def counted(service: Service, path: str, status: int) -> float:
    name = f'tuneserve_requests_total{{path="{path}",status="{status}"}}'
    lines = service.metrics.text().decode().splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))


def test_a_defect_is_answered_logged_and_counted_as_one(
    app: FastAPI, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> None:
        raise RuntimeError("a defect")

    monkeypatch.setattr(service, "chat_turn", fail)
    answer = post(app, service, "/v1/chat/completions", CHAT)
    assert answer.status_code == 500
    assert answer.headers["x-request-id"].startswith("req-")
    assert answer.json()["error"]["type"] == "server_error"
    assert counted(service, "/v1/chat/completions", 500) == 1


def test_a_full_queue_and_a_closing_server_say_when_to_come_again(demo_gguf: Path) -> None:
    settings = ServeSettings(ctx=256, slots=1, max_queue=2, threads=1, log="off")
    service = Service(demo_gguf, "demo", settings)
    app = create_app(service)
    try:
        endless = SamplingParams(temperature=0.0, logit_bias={2: -100.0, 0: -100.0}, max_tokens=200)
        busy = [service.engine.submit([5, 6], endless) for _ in range(3)]
        full = post(app, service, "/v1/completions", TEXT)
        for one in busy:
            one.cancel()
            one.result(30)
        service.engine.refuse_new()
        closing = post(app, service, "/v1/completions", TEXT)
        unready = post(app, service, "/ready", {}, method="GET")
    finally:
        service.close()
    assert (full.status_code, full.headers["retry-after"]) == (429, "1")
    assert full.json()["error"] == {
        "message": "2 requests are waiting already", "type": "rate_limit_error", "param": None,
        "code": "queue_full",
    }  # fmt: skip
    assert (closing.status_code, closing.headers["retry-after"]) == (503, "5")
    assert closing.json()["error"]["message"] == "the server is shutting down"
    assert unready.status_code == 503
    assert unready.json()["error"]["message"] == "No requests are taken."


def test_a_defect_amid_an_answer_is_counted_as_one(service: Service) -> None:
    async def broken(scope: Any, receive: Any, send: Callable[[Any], Awaitable[None]]) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise RuntimeError("a defect")

    async def nothing(*_: object) -> None:
        return None

    metrics = Metrics(service.engine)
    log = AccessLog(broken, style="off", metrics=metrics)
    with pytest.raises(RuntimeError, match="a defect"):
        asyncio.run(log({"type": "http", "method": "GET"}, nothing, nothing))  # type: ignore[arg-type]
    assert b'status="500"} 1.0' in metrics.text()


def ask_and_leave(app: FastAPI, service: Service, path: str, body: dict[str, Any]) -> list[Any]:
    """Send a request and leave before its answer; what was sent to nobody."""
    sent: list[Any] = []
    requests = [{"type": "http.request", "body": json.dumps(body).encode()}]

    async def receive() -> dict[str, Any]:
        if requests:
            return requests.pop()
        await asyncio.sleep(0.1)
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    async def ask() -> None:
        service.bridge.attach(asyncio.get_running_loop())
        headers = [(b"host", b"localhost"), (b"content-type", b"application/json")]
        scope = {
            "type": "http", "http_version": "1.1", "method": "POST", "path": path,
            "raw_path": path.encode(), "root_path": "", "scheme": "http", "query_string": b"",
            "headers": headers, "client": ("127.0.0.1", 1), "server": ("test", 80),
        }  # fmt: skip
        await asyncio.wait_for(app(scope, receive, send), 60)

    asyncio.run(ask())
    return sent


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", TEXT),
        ("/v1/embeddings", {"input": [[5] * 700] * 300}),
    ],
)
def test_clients_that_left_are_counted_as_gone_and_their_work_ends(
    app: FastAPI, service: Service, path: str, body: dict[str, Any]
) -> None:
    before = counted(service, path, 499)
    ask_and_leave(app, service, path, body)
    assert counted(service, path, 499) == before + 1
    # The next one is not kept waiting by what nobody wants any more.
    short = {**body, "max_tokens": 1} if "prompt" in body else {"input": "x"}
    assert post(app, service, path, short).status_code == 200
    # An answer is told a moment before it is counted as done.
    deadline = time.monotonic() + 10
    while service.engine.stats().waiting and time.monotonic() < deadline:
        time.sleep(0.01)
    assert service.engine.stats().waiting == 0


def test_a_stream_whose_client_left_in_the_queue_is_not_begun(
    app: FastAPI, service: Service
) -> None:
    ids = service.engine.model.tokenize("Once upon a time")
    endless = SamplingParams(temperature=0.0, logit_bias={2: -100.0, 0: -100.0})
    busy = [service.engine.submit(ids, endless) for _ in range(2)]
    try:
        assert ask_and_leave(app, service, "/v1/completions", {**TEXT, "stream": True}) == []
    finally:
        for one in busy:
            one.cancel()
    for one in busy:
        one.result(30)


@pytest.mark.parametrize(
    ("path", "body", "name"),
    [
        ("/v1/chat/completions", CHAT, "chat_turn"),
        ("/v1/completions", {**TEXT, "max_tokens": 1}, "text_prompt"),
        ("/v1/embeddings", {"input": "x"}, "text_prompt"),
        ("/detokenize", {"tokens": [5, 6]}, "text_prompt"),
    ],
)
def test_texts_are_prepared_beside_the_event_loop(
    app: FastAPI,
    service: Service,
    monkeypatch: pytest.MonkeyPatch,
    path: str,
    body: dict[str, Any],
    name: str,
) -> None:
    """A text of megabytes takes a second: all streams would wait for it."""
    threads = []
    prepare = getattr(service, name)

    def watched(*arguments: Any, **options: Any) -> Any:
        threads.append(threading.current_thread())
        return prepare(*arguments, **options)

    monkeypatch.setattr(service, name, watched)
    assert post(app, service, path, body).status_code == 200
    assert threads
    assert threading.main_thread() not in threads


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/v1/chat/completions", {"messages": LONG}, "messages"),
        ("/v1/completions", {"prompt": "x " * 2000}, "prompt"),
        # Refused by its length, before its ids are looked at.
        ("/v1/completions", {"prompt": [99_999] * 5000}, "prompt"),
        ("/v1/embeddings", {"input": ["a", "x " * 5000]}, "input"),
    ],
)
def test_the_field_that_is_too_long_is_named(
    app: FastAPI, service: Service, path: str, body: dict[str, Any], param: str
) -> None:
    answer = post(app, service, path, body)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (400, "context_length_exceeded")
    assert error["param"] == param
    assert ("of the answer" in error["message"]) is (param != "input")


@pytest.mark.parametrize(
    ("path", "body", "param", "message"),
    [
        ("/v1/completions", {"prompt": ""}, "prompt", "The text is empty."),
        ("/v1/embeddings", {"input": ["x", ""]}, "input", "The text is empty."),
        ("/v1/completions", {"prompt": [5, 99_999]}, "prompt", "Token id 99999 is not in the voc"),
        ("/detokenize", {"tokens": [99_999]}, "tokens", "Token id 99999 is not in the vocabulary"),
        (
            "/v1/chat/completions", {**CHAT, "logit_bias": {"99999": 1}}, "logit_bias",
            "Token id 99999 is not in the vocabulary of 49152.",
        ),
    ],
)  # fmt: skip
def test_texts_and_ids_that_the_model_can_not_read(
    app: FastAPI, service: Service, path: str, body: dict[str, Any], param: str, message: str
) -> None:
    answer = post(app, service, path, body)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"], error["code"]) == (400, param, "invalid_value")
    assert error["message"].startswith(message)


def test_embeddings_of_an_adapter_are_refused(app: FastAPI, service: Service) -> None:
    error = post(app, service, "/v1/embeddings", {"input": "x", "model": "loud"}).json()["error"]
    assert (error["param"], "base model 'demo'" in error["message"]) == ("model", True)


def tool(name: str, parameters: dict[str, Any]) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"stop": "x" * 257}, "stop"),
        ({"stop": ["ok", "x" * 257]}, "stop"),
        ({"top_k": 2**31}, "top_k"),
        ({"chat_template_kwargs": {"self": 1}}, None),
        ({"grammar": "root ::= " + "(" * 40_000}, "grammar"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": {"not": {}}}}},
            "response_format",
        ),
        (
            {
                "tools": [
                    tool("fine", {}),
                    tool("wrong", {"properties": {"x": {"not": {"type": "null"}}}}),
                ],
                "tool_choice": "required",
            },
            "tools[1].function.parameters",
        ),
    ],
)
def test_what_would_harm_is_refused(
    app: FastAPI, service: Service, fields: dict[str, Any], param: str | None
) -> None:
    answer = post(app, service, "/v1/chat/completions", {**CHAT, **fields})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
