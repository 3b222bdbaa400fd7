"""What clients send in ways of their own, and what they get while they wait."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from tests.serve.api.test_app import CHAT, LONG, TEXT
from tests.support import ModulePaths
from tuneserve.serve.api.app import create_app
from tuneserve.serve.api.service import Service
from tuneserve.serve.engine import SamplingParams
from tuneserve.settings import ServeSettings

pytestmark = pytest.mark.slow

HALF = "\ud83d"
ENDLESS = SamplingParams(temperature=0.0, logit_bias={2: -100.0, 0: -100.0})


@pytest.fixture(scope="module")
def service(demo_gguf: Path, module_paths: ModulePaths) -> Iterator[Service]:
    keys = module_paths.mktemp("keys") / "keys"
    keys.write_text("secret\n")
    settings = ServeSettings(
        ctx=1024, slots=2, threads=1, log="off", ping_seconds=0.1, api_key_file=keys
    )
    service = Service(demo_gguf, "demo", settings)
    yield service
    service.close()


@pytest.fixture(scope="module")
def app(service: Service) -> FastAPI:
    return create_app(service)


def sent(
    app: FastAPI,
    service: Service,
    path: str,
    body: Any = None,
    *,
    method: str = "POST",
    key: bool = True,
    **headers: str,
) -> httpx.Response:
    """The answer to a body of JSON, or of bytes as they are; headers' names with _ for -."""
    content = body if isinstance(body, bytes | None) else json.dumps(body).encode()
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    own = {"content-type": "application/json"}
    if key:
        own["authorization"] = "Bearer secret"

    async def ask() -> httpx.Response:
        service.bridge.attach(asyncio.get_running_loop())
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await client.request(
                method, path, content=content, headers={**own, **given}, timeout=60
            )

    return asyncio.run(ask())


@pytest.mark.parametrize(
    "kind",
    ["", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "text/json",
     "application/json, text/plain", "text/plain; application/json"],
)  # fmt: skip
def test_a_body_of_another_type_is_refused(app: FastAPI, service: Service, kind: str) -> None:
    refused = sent(app, service, "/v1/chat/completions", CHAT, content_type=kind)
    assert refused.status_code == 415
    assert refused.json()["error"]["code"] == "unsupported_media_type"
    assert "Content-Type: application/json" in refused.json()["error"]["message"]


@pytest.mark.parametrize("coding", ["gzip", "GZIP", "br", "identity, gzip", "x" * 100])
def test_a_compressed_body_is_refused(app: FastAPI, service: Service, coding: str) -> None:
    body = gzip.compress(json.dumps(CHAT).encode())
    refused = sent(app, service, "/v1/chat/completions", body, content_encoding=coding)
    error = refused.json()["error"]
    assert (refused.status_code, error["code"]) == (415, "unsupported_content_encoding")
    assert f"Content-Encoding: {coding.lower()[:40]} is not read" in error["message"]
    assert refused.headers["accept-encoding"] == "identity"
    plain = sent(app, service, "/v1/chat/completions", CHAT, content_encoding="Identity")
    assert plain.status_code == 200


@pytest.mark.parametrize("kind", ["application/json", "multipart/form-data; boundary=x", ""])
@pytest.mark.parametrize(
    ("path", "code"),
    [("/v1/files", "disabled"), ("/v1/batches", "disabled"), ("/v1/files/file-1", "disabled"),
     ("/v1/filesystem", "unknown_url"), ("/v1/audio/speech", "unknown_url")],
)  # fmt: skip
def test_what_is_not_served_is_said_whatever_is_sent(
    app: FastAPI, service: Service, path: str, code: str, kind: str
) -> None:
    answer = sent(app, service, path, b"{}", content_type=kind)
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, code)
    if code == "disabled":
        assert "start the server with --batch-dir" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("path", "more"),
    [("/tokenize", {}), ("/v1/messages/count_tokens", {"model": "demo"}), ("/apply-template", {})],
)
def test_what_renders_waits_for_others_that_do_and_for_nobody_else(
    app: FastAPI, service: Service, path: str, more: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    rendered: list[int] = []
    rendering = service.rendering

    async def noted(size: int, work: Any) -> Any:
        rendered.append(size)
        return await rendering(size, work)

    monkeypatch.setattr(service, "rendering", noted)
    body = {"messages": [{"role": "user", "content": "Hello"}], **more}
    assert sent(app, service, path, body).status_code == 200
    assert len(rendered) == 1
    assert sent(app, service, "/tokenize", {"content": "Hello"}).status_code == 200
    assert len(rendered) == 1


def test_parameters_of_the_type_do_not_matter(app: FastAPI, service: Service) -> None:
    kind = "Application/JSON; charset=utf-8"
    assert sent(app, service, "/v1/chat/completions", CHAT, content_type=kind).status_code == 200


def test_a_form_is_no_json(app: FastAPI, service: Service) -> None:
    wrong = sent(app, service, "/v1/completions", b"prompt=x")
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (400, "invalid_json")


@pytest.mark.parametrize("path", ["/", "/health", "/ready", "/metrics", "/v1/models"])
def test_what_can_be_got_can_be_asked_for_by_head(
    app: FastAPI, service: Service, path: str
) -> None:
    assert sent(app, service, path, method="HEAD").status_code == 200
    line = f'tuneserve_requests_total{{path="{path}",status="200"}}'
    assert line in service.metrics.text().decode()


def test_head_does_not_generate(app: FastAPI, service: Service) -> None:
    assert sent(app, service, "/v1/completions", method="HEAD").status_code == 405


@pytest.mark.parametrize("header", ["x_api_key", "api_key"])
def test_keys_in_the_headers_of_other_apis(app: FastAPI, service: Service, header: str) -> None:
    for value, status in (("secret", 200), ("wrong", 401), ("", 401)):
        headers: dict[str, Any] = {header: value}
        answer = sent(app, service, "/v1/models", method="GET", key=False, **headers)
        assert answer.status_code == status


@pytest.mark.parametrize(
    ("part", "word"),
    [
        ({"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}, "images"),
        ({"type": "input_audio", "input_audio": {"data": "", "format": "wav"}}, "audio"),
        ({"type": "file", "file": {"file_id": "x"}}, "files"),
    ],
)
def test_content_that_is_no_text_is_named(
    app: FastAPI, service: Service, part: dict[str, Any], word: str
) -> None:
    content = [{"type": "text", "text": "What is this?"}, part]
    body = {**CHAT, "messages": [{"role": "user", "content": content}]}
    error = sent(app, service, "/v1/chat/completions", body).json()["error"]
    assert "not supported" in error["message"]
    assert word in error["message"]
    assert error["param"] == "messages.0.content.1"


def test_a_field_is_named_as_the_client_wrote_it_and_long_ones_are_cut(
    app: FastAPI, service: Service
) -> None:
    body = {**CHAT, "messages": [{"role": "user", "content": 5}]}
    assert sent(app, service, "/v1/chat/completions", body).json()["error"]["param"] == (
        "messages.0.content"
    )
    unknown = sent(app, service, "/v1/chat/completions", {**CHAT, "x" * 200_000: 1})
    assert unknown.status_code == 400
    assert len(unknown.content) < 1000


def schema(of: dict[str, Any]) -> dict[str, Any]:
    return {"response_format": {"type": "json_schema", "json_schema": {"schema": of}}}


@pytest.mark.parametrize(
    "fields",
    [
        {"model": HALF},
        {HALF: 1},
        {"logit_bias": {HALF: 1}},
        {"logit_bias": {"5": HALF}},
        {"user": HALF},
        {"stop": [HALF]},
        {"grammar": f"root ::= {HALF}"},
        {"grammar": f'root ::= "{HALF}"'},
        {"chat_template_kwargs": {HALF: HALF}},
        {"messages": [{"role": "user", "content": HALF, "name": HALF}]},
        {"messages": [{"role": HALF, "content": "x"}]},
        {"messages": [{"role": "user", "content": [{"type": HALF, "text": "x"}]}]},
        {"tools": [{"type": "function", "function": {"name": HALF}}]},
        {"tools": [{"type": "function", "function": {"name": "f", "description": HALF}}]},
        {"tool_choice": {"type": "function", "function": {"name": HALF}}},
        schema({HALF: 1}),
        schema({"$ref": HALF}),
        schema({"$ref": f"#/{HALF}"}),
        schema({"type": HALF}),
        schema({"type": "object", "properties": {HALF: {"type": "null"}}}),
        schema({"pattern": HALF}),
        schema({"format": HALF}),
        schema({"const": HALF}),
    ],
    ids=str,
)
def test_half_a_character_is_no_defect(
    app: FastAPI, service: Service, fields: dict[str, Any]
) -> None:
    answer = sent(app, service, "/v1/chat/completions", {**CHAT, **fields})
    assert answer.status_code in (200, 400, 404), answer.text
    answer.json()


def test_half_a_character_in_the_other_paths(app: FastAPI, service: Service) -> None:
    for path, field in (("/v1/completions", "prompt"), ("/tokenize", "content")):
        length = {"max_tokens": 1} if field == "prompt" else {}
        for body in ({field: HALF}, {field: "x", "model": HALF}, {field: "x", HALF: 1}):
            assert sent(app, service, path, {**body, **length}).status_code in (200, 400, 404)
    assert sent(app, service, "/v1/models/%ED%A0%BD", method="GET").status_code == 404


def test_a_models_name_may_have_slashes(app: FastAPI, service: Service) -> None:
    for path in ("/v1/models/owner/name", "/v1/models/owner%2Fname"):
        answer = sent(app, service, path, method="GET")
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")


@pytest.mark.parametrize("stops", [False, True])
def test_a_stream_that_waits_shows_that_it_lives(demo_gguf: Path, stops: bool) -> None:
    """While another runs: comments, then the answer; or the failure as an event."""
    settings = ServeSettings(ctx=1024, slots=1, threads=1, log="off", ping_seconds=0.1)
    service = Service(demo_gguf, "demo", settings)
    app = create_app(service)
    busy = service.engine.submit(service.engine.model.tokenize("Once upon a time"), ENDLESS)

    async def release() -> None:
        await asyncio.sleep(0.5)
        if stops:
            service.engine.stop()
        busy.cancel()

    async def ask() -> httpx.Response:
        service.bridge.attach(asyncio.get_running_loop())
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            releasing = asyncio.create_task(release())
            body = {**TEXT, "max_tokens": 3, "stream": True}
            answer = await client.post("/v1/completions", json=body)
            await releasing
            return answer

    try:
        answer = asyncio.run(ask())
    finally:
        service.close()
    assert answer.status_code == 200
    assert len([line for line in answer.text.split("\n\n") if line.startswith(":")]) >= 2
    last = answer.text.strip().rpartition("\n")[2].removeprefix("data: ")
    if stops:
        assert json.loads(last)["error"]["code"] == "unavailable"
    else:
        assert last == "[DONE]"


def test_a_request_that_fails_at_once_has_a_status(app: FastAPI, service: Service) -> None:
    body = {**CHAT, "messages": LONG, "stream": True}
    assert sent(app, service, "/v1/chat/completions", body).status_code == 400


def test_half_a_character_comes_back_in_a_rendered_prompt(app: FastAPI, service: Service) -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {"required": [HALF]}}}
    answer = sent(app, service, "/apply-template", {**CHAT, "tools": [tool]})
    assert answer.status_code == 200
    assert "ud83d" in answer.json()["prompt"]


@pytest.mark.parametrize("kind", [{}, [], 3, None])
def test_a_part_whose_kind_is_no_text_is_refused(
    app: FastAPI, service: Service, kind: object
) -> None:
    part = {"type": kind, "text": "x"}
    message = {"role": "user", "content": [part]}
    answer = sent(app, service, "/v1/chat/completions", {"messages": [message]})
    assert answer.status_code == 400


def test_the_description_has_the_statuses_that_there_are(app: FastAPI) -> None:
    described = app.openapi()
    for path, operations in described["paths"].items():
        for operation in operations.values():
            assert "422" not in operation["responses"], path
    messages = described["paths"]["/v1/messages"]["post"]["responses"]
    assert {"400", "404", "529"} <= messages.keys()
    assert "HTTPValidationError" not in described["components"]["schemas"]
