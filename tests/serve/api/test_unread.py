"""Bodies that are refused before they have arrived: usual clients are told why."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import requests

from tests.support import ModulePaths, RunningServer
from tuneserve.serve.api.unread import MOST_OF_STRANGERS

pytestmark = pytest.mark.slow

SIZE = 20_000_000
Outcome = tuple[int, str]
Ask = Callable[[str, str, bytes], Outcome]


@pytest.fixture(scope="module")
def strict_server(
    start_server: Any, module_paths: ModulePaths, demo_gguf: Path
) -> Iterator[RunningServer]:
    folder = module_paths.mktemp("unread")
    (folder / "keys").write_text("secret\n")
    with start_server(
        folder / "log", str(demo_gguf), "--ctx", "256", "--max-body", "100000",
        "--batch-dir", str(folder / "kept"), "--batch-storage", "0.0001",
        "--api-key-file", str(folder / "keys"),
    ) as running:  # fmt: skip
        yield running


def with_urllib(url: str, key: str, body: bytes) -> Outcome:
    try:
        urllib.request.urlopen(urllib.request.Request(url, body, headers_for(url, key)))
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)["error"]["code"]
    raise AssertionError


def headers_for(url: str, key: str) -> dict[str, str]:
    kind = "multipart/form-data; boundary=x" if url.endswith("/files") else "application/json"
    return {"Authorization": f"Bearer {key}", "Content-Type": kind}


def with_requests(url: str, key: str, body: Any) -> Outcome:
    answer = requests.post(url, data=body, headers=headers_for(url, key), timeout=60)
    return answer.status_code, answer.json()["error"]["code"]


def with_httpx(url: str, key: str, body: bytes) -> Outcome:
    answer = httpx.post(url, content=body, headers=headers_for(url, key), timeout=60)
    return answer.status_code, answer.json()["error"]["code"]


def in_chunks(url: str, key: str, body: bytes) -> Outcome:
    return with_requests(url, key, (body[at : at + 50_000] for at in range(0, SIZE, 50_000)))


def with_openai(url: str, key: str, body: bytes) -> Outcome:
    base, _, path = url.partition("/v1")
    client = openai.OpenAI(base_url=f"{base}/v1", api_key=key, max_retries=0, timeout=60)
    try:
        if path == "/files":
            client.files.create(file=("in.jsonl", body), purpose="batch")
        else:
            client.post(path, cast_to=httpx.Response, body={"prompt": body.decode()})
    except openai.APIStatusError as error:
        return error.status_code, str(error.code)
    raise AssertionError


def with_curl(url: str, key: str, body: bytes) -> Outcome:
    if shutil.which("curl") is None:
        pytest.skip("there is no curl")
    headers = [f"-H{name}: {value}" for name, value in headers_for(url, key).items()]
    done = subprocess.run(
        ["curl", "-sS", "--data-binary", "@-", *headers, "-w", "\n%{http_code}", url],
        input=body, capture_output=True, check=True, timeout=60,
    )  # fmt: skip
    text, _, status = done.stdout.decode().rpartition("\n")
    return int(status), json.loads(text)["error"]["code"]


ASKS = [with_urllib, with_requests, in_chunks, with_httpx, with_openai, with_curl]


@pytest.mark.parametrize("ask", ASKS)
@pytest.mark.parametrize(
    ("path", "outcome"),
    [
        ("/v1/completions", (413, "request_too_large")),
        ("/v1/files", (413, "storage_full")),
    ],
)
def test_clients_are_told(
    strict_server: RunningServer, ask: Ask, path: str, outcome: Outcome
) -> None:
    body = b"some text\n" * (SIZE // 10)
    if ask is in_chunks and path == "/v1/files":
        outcome = (400, "invalid_value")  # Its length is not known, and it is no form.
    assert ask(f"{strict_server.url}{path}", "secret", body) == outcome


@pytest.mark.parametrize("ask", ASKS)
def test_a_client_with_a_wrong_key_is_told(strict_server: RunningServer, ask: Ask) -> None:
    body = b"some text\n" * (MOST_OF_STRANGERS // 12)
    assert ask(f"{strict_server.url}/v1/completions", "wrong", body) == (401, "invalid_api_key")


@pytest.mark.parametrize(
    ("head", "status"),
    [
        ("POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer wrong", 401),
        ("POST /v1/completions HTTP/1.1\r\nHost: localhost", 401),
        ("POST /v1/files HTTP/1.1\r\nHost: localhost", 401),
        ("GET / HTTP/1.1\r\nHost: localhost", 200),
        ("POST /v1/completions HTTP/1.1\r\nHost: evil.example", 403),
    ],
)
@pytest.mark.parametrize("length", ["Transfer-Encoding: chunked", f"Content-Length: {1 << 29}"])
def test_little_is_read_of_who_has_no_key(
    strict_server: RunningServer, head: str, status: int, length: str
) -> None:
    chunk = b"10000\r\n" + bytes(1 << 16) + b"\r\n"
    address = strict_server.url.removeprefix("http://").split(":")
    taken = 0
    with socket.create_connection((address[0], int(address[1])), timeout=10) as connection:
        connection.sendall(f"{head}\r\n{length}\r\n\r\n".encode())
        answer = connection.recv(1 << 16)
        with contextlib.suppress(ConnectionError):
            while taken < SIZE * 10:
                connection.sendall(chunk)
                taken += len(chunk)
    # What is too long is said to be at once, where no key is needed.
    statuses = (status, 413) if status == 200 else (status,)
    assert answer.startswith(tuple(f"HTTP/1.1 {one} ".encode() for one in statuses))
    assert b"connection: close" in answer.lower()
    assert taken <= SIZE  # What was read, and what both systems hold of a connection.


def test_a_connection_is_kept_after_a_body_that_was_dropped(strict_server: RunningServer) -> None:
    headers = {"Authorization": "Bearer secret"}
    with requests.Session() as session:
        for _ in range(3):
            answer = session.post(
                f"{strict_server.url}/v1/completions", data=b"x" * 1_000_000, headers=headers
            )
            assert answer.status_code == 413
            assert "close" not in answer.headers.get("Connection", "")
        models = session.get(f"{strict_server.url}/v1/models", headers=headers)
        assert models.status_code == 200
