"""Which hosts and web pages a server answers."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from pydantic import ValidationError

from tuneserve.serve.api.browser_rules import BrowserRules
from tuneserve.serve.api.middleware import FROM_INSIDE
from tuneserve.settings import ServeSettings

TOKEN = "the-token"


def answer(
    *headers: tuple[str, str],
    path: str = "/v1/completions",
    method: str = "POST",
    scheme: str = "http",
    version: str = "1.1",
    token: str | None = TOKEN,
    server: str = "127.0.0.1",
    host: str = "127.0.0.1",
    scope: dict[str, Any] | None = None,
    allowed: tuple[str, ...] = (),
    origins: tuple[str, ...] = (),
) -> tuple[int, str]:
    """Status and code of the error; (200, '') where the application is reached."""
    sent: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b'{"error": {"code": ""}}'})

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    rules = BrowserRules(
        app,
        host=host,
        allowed=allowed,
        origins=origins,
        token=token,
    )
    given = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers]
    asked = {
        "type": "http", "method": method, "path": path, "scheme": scheme, "http_version": version,
        "headers": given, "server": (server, 8080), **(scope or {}),
    }  # fmt: skip
    asyncio.run(rules(asked, receive, send))
    if asked["type"] == "websocket":
        return sent[0]["code"], sent[0]["type"]
    return sent[0]["status"], json.loads(sent[1]["body"])["error"]["code"]


OK = (200, "")
REFUSED_HOST = (403, "host_refused")
REFUSED_ORIGIN = (403, "origin_refused")
NO_TOKEN = (403, "page_token_needed")
NO_HOST = (400, "invalid_host")
HERE = ("Host", "localhost:8080")


@pytest.mark.parametrize("path", ["/", "/health", "/metrics", "/v1/models", "/tokenize", "/x"])
@pytest.mark.parametrize("method", ["GET", "POST", "HEAD", "OPTIONS", "DELETE"])
def test_a_foreign_host_is_refused_on_every_path(path: str, method: str) -> None:
    assert answer(("Host", "evil.example"), path=path, method=method) == REFUSED_HOST
    assert answer(HERE, path=path, method=method) == OK


def test_hosts() -> None:
    assert answer(("Host", "192.168.1.5")) == REFUSED_HOST
    assert answer(("Host", "192.168.1.5"), server="192.168.1.5", host="0.0.0.0") == OK
    assert answer(("Host", "[fe80::1]:80"), server="fe80::1%eth0", host="::") == OK
    assert answer(("Host", "box"), host="BOX") == OK
    assert answer(("Host", "llm.example"), allowed=("llm.example",)) == OK
    assert answer(("Host", "llm.example"), allowed=("*",)) == OK
    for wrong in (
        (),
        (HERE, HERE),
        (("Host", ""),),
        (("Host", "a b"),),
        (("Host", "u@localhost"),),
    ):
        assert answer(*wrong) == NO_HOST


def test_only_http_1_0_may_say_no_host() -> None:
    assert answer(version="1.0") == OK
    assert answer(("Host", "evil.example"), version="1.0") == REFUSED_HOST


@pytest.mark.parametrize("method", ["GET", "POST", "HEAD", "OPTIONS", "DELETE"])
@pytest.mark.parametrize(
    "origin",
    ["http://evil.example", "null", "", "http://localhost:3000", "http://127.0.0.1:8080", "file://",
     "http://localhost:8080/"],
)  # fmt: skip
def test_a_foreign_origin_is_refused(method: str, origin: str) -> None:
    assert answer(HERE, ("Origin", origin), method=method) == REFUSED_ORIGIN
    assert answer(HERE, ("Origin", origin), method=method, path="/health") == OK


def test_a_doubled_origin_is_refused() -> None:
    own = ("Origin", "http://localhost:8080")
    page = ("X-Tuneserve-Page", TOKEN)
    assert answer(HERE, own, page) == OK
    assert answer(HERE, own, own, page) == REFUSED_ORIGIN
    assert answer(HERE, own, ("Origin", "http://evil.example"), page) == REFUSED_ORIGIN


def test_origins_that_are_allowed_need_no_token() -> None:
    given = ("Origin", "https://app.example")
    assert answer(HERE, given, origins=("https://app.example",)) == OK
    assert answer(HERE, given, origins=("*",)) == OK
    assert answer(HERE, ("Origin", "null"), origins=("null",)) == OK
    assert answer(HERE, given, origins=("https://other.example",)) == REFUSED_ORIGIN


def test_the_own_page_needs_its_token_where_no_key_is_asked_for() -> None:
    own = ("Origin", "http://localhost:8080")
    assert answer(HERE, own) == NO_TOKEN
    assert answer(HERE, own, ("X-Tuneserve-Page", "another")) == NO_TOKEN
    assert answer(HERE, own, ("X-Tuneserve-Page", "\xe9")) == NO_TOKEN
    assert answer(HERE, own, ("X-Tuneserve-Page", TOKEN)) == OK
    assert answer(HERE, own, token=None) == OK
    assert answer(HERE, own, method="GET") == OK


def test_behind_a_proxy() -> None:
    page = ("X-Tuneserve-Page", TOKEN)
    secure = ("Origin", "https://llm.example")
    named = ("llm.example",)
    # The proxy passes the host on, or puts its own address of the server in.
    assert answer(("Host", "llm.example"), secure, page, allowed=named) == OK
    assert answer(("Host", "127.0.0.1:8080"), secure, page, allowed=named) == OK
    assert answer(("Host", "127.0.0.1:8080"), secure, page) == REFUSED_ORIGIN
    elsewhere = ("Origin", "https://llm.example:3000")
    assert answer(("Host", "llm.example"), elsewhere, page, allowed=named) == REFUSED_ORIGIN


def test_a_page_without_tls_is_not_that_of_a_server_with_tls() -> None:
    host, page = ("Host", "box:8080"), ("X-Tuneserve-Page", TOKEN)
    for scheme, expected in (("http", REFUSED_ORIGIN), ("https", OK)):
        origin = ("Origin", f"{scheme}://box:8080")
        assert answer(host, origin, page, scheme="https", host="box") == expected


def test_websockets_are_closed_and_own_requests_pass() -> None:
    assert answer(HERE, scope={"type": "websocket"}) == (1008, "websocket.close")
    assert answer(scope={FROM_INSIDE: True}) == OK


@pytest.mark.parametrize("field", ["allowed_hosts", "cors_origins"])
@pytest.mark.parametrize("wrong", ["https://app.example/", "a b", "", "app.example/x"])
def test_settings_that_can_never_match_are_refused(field: str, wrong: str) -> None:
    with pytest.raises(ValidationError, match="not a"):
        ServeSettings.model_validate({field: (wrong,)})
