"""Limits of connections and of requests' heads, of a server whose application has no model."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
import uvicorn

from tuneserve.serve.api.connections import guarded_protocol
from tuneserve.serve.api.open_connections import ConnectionLimits, network_of

HEAD = b"GET / HTTP/1.1\r\nHost: localhost\r\n"
LAST = HEAD + b"Connection: close\r\n\r\n"


class Running:
    """A server, and why it refused connections."""

    def __init__(self, **limits: float) -> None:
        usual: dict[str, Any] = {
            "max_url": 1000, "max_header_bytes": 4000, "max_headers": 20, "receive_seconds": 60,
            "send_seconds": 60, "max_connections": 100, "max_client_connections": 100,
        }  # fmt: skip
        self.refused: Counter[str] = Counter()
        listener = socket.create_server(("127.0.0.1", 0))
        self.port = listener.getsockname()[1]
        config = uvicorn.Config(
            self._app,
            log_config=None,
            lifespan="off",
            interface="asgi3",
            ws="none",
            http=guarded_protocol(ConnectionLimits(**usual | limits), self._refuse),
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, args=([listener],))
        self._thread.start()

    def _refuse(self, reason: str) -> None:
        self.refused[reason] += 1

    async def _app(self, scope: Any, receive: Any, send: Any) -> None:
        """Tells what it got; waits at /slow, computes at /busy, writes without end at /endless."""
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        host = next((value for name, value in scope["headers"] if name == b"host"), b"")
        got = {"host": host.decode(), "path": scope["path"], "body": len(body)}
        await send({"type": "http.response.start", "status": 200, "headers": []})
        if scope["path"] == "/busy":
            time.sleep(0.01)  # in the event loop
        if scope["path"] == "/slow":
            await asyncio.sleep(1.5)
        while scope["path"] == "/endless" and self._server.started:
            await send({"type": "http.response.body", "body": b"a" * 65536, "more_body": True})
            await asyncio.sleep(0)
        await send({"type": "http.response.body", "body": json.dumps(got).encode()})

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=10)

    def ask(self, *pieces: bytes) -> bytes:
        """The answer to a request sent in pieces, until the server closes or has nothing to say."""
        with self.connect() as connection:
            for piece in pieces:
                connection.sendall(piece)
            return answer_of(connection)

    def cuts_off(self, start: bytes, piece: bytes, *, pieces: int, pause: float) -> bool:
        """Does it end a connection before all of this is sent?"""
        with self.connect() as connection:
            connection.settimeout(pause)
            try:
                connection.sendall(start)
                for _ in range(pieces):
                    connection.sendall(piece)
                    with suppress(TimeoutError):
                        if connection.recv(1000) == b"":
                            return True
            except OSError:
                return True
        return False

    def close(self) -> None:
        self._server.should_exit = self._server.force_exit = True
        self._server.started = False
        self._thread.join(10)


def answer_of(connection: socket.socket) -> bytes:
    answer = b""
    while b"}" not in answer and b"0\r\n\r\n" not in answer and (block := connection.recv(65536)):
        answer += block
    return answer


@contextmanager
def running(**limits: float) -> Iterator[Running]:
    server = Running(**limits)
    try:
        yield server
    finally:
        server.close()


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with running() as one:
        yield one


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (HEAD + b"\r\n", 200),
        (HEAD + b"X: " + b"a" * 3900 + b"\r\n\r\n", 200),
        (HEAD + b"X: " + b"a" * 4000 + b"\r\n\r\n", 431),
        (HEAD + b"X: " + b"a" * 200_000, 431),
        (HEAD + b"X" * 200_000, 431),
        (HEAD + b"X: a\r\n" * 19 + b"\r\n", 200),
        (HEAD + b"X: a\r\n" * 20 + b"\r\n", 431),
        (HEAD + b"".join(b"X: %d\r\n" % one for one in range(5000)), 431),
        (b"GET /" + b"a" * 999 + HEAD[5:] + b"\r\n", 200),
        (b"GET /" + b"a" * 1000 + HEAD[5:] + b"\r\n", 414),
        (b"GET /" + b"a" * 100_000, 414),
        (b"\r\n" * 50_000, 431),
        (b"hello\r\n\r\n", 400),
        (b"CONNECT localhost:1 HTTP/1.1\r\nHost: localhost:1\r\n\r\n", 400),
    ],
)
def test_heads(server: Running, request_: bytes, status: int) -> None:
    answer = server.ask(request_)
    assert answer.startswith(b"HTTP/1.1 %d" % status)
    if status != 200:
        assert b"connection: close" in answer
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"]


def test_a_head_without_end_is_no_memory(server: Running) -> None:
    assert server.cuts_off(HEAD + b"X: ", b"a" * (1 << 20), pieces=64, pause=0.01)


def test_a_trailer_without_end_is_cut(server: Running) -> None:
    chunked = b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    body = b"3\r\nabc\r\n" * 5000
    assert b'"body": 15000' in server.ask(chunked + body + b"0\r\n\r\n")
    assert b'"body": 3' in server.ask(chunked + b"3;x=y\r\nabc\r\n0\r\nX: a\r\n\r\n")
    for endless in (b"0\r\nX: ", b"3;", b"0"):
        assert server.cuts_off(chunked + endless, b"0" * 100_000, pieces=20, pause=0.01)


def test_the_host_of_a_whole_url_counts(server: Running) -> None:
    for url, host in (
        ("http://evil.example/x", "evil.example"),
        ("http://evil.example:99/", "evil.example:99"),
        ("http://u:p@localhost/x", "u:p@localhost"),
        ("http://[::1]:5/x", "[::1]:5"),
    ):
        for header in ("Host: localhost\r\n", ""):
            answer = server.ask(f"GET {url} HTTP/1.1\r\n{header}\r\n".encode())
            assert f'"host": "{host}"'.encode() in answer


def test_another_protocol_that_is_offered_is_not_taken(server: Running) -> None:
    offer = b"POST /x HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade, HTTP2-Settings\r\n"
    offer += b"Upgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\nContent-Length: 5\r\n\r\n"
    assert b'"body": 5' in server.ask(offer + b"12345")
    assert b'"body": 5' in server.ask(offer, b"12", b"345")
    websocket = HEAD + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    assert server.ask(websocket).startswith(b"HTTP/1.1 200")
    twice = server.ask(offer + b"12345" + HEAD + b"\r\n")
    assert twice.startswith(b"HTTP/1.1 200")


def test_those_that_hold_connections_for_nothing_give_way() -> None:
    with running(max_client_connections=5, max_connections=50) as server:
        held = [server.connect() for _ in range(3)]
        for piece in (HEAD, b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n12"):
            held.append(server.connect())
            held[-1].sendall(piece)
        time.sleep(0.2)
        for _ in range(20):
            assert server.ask(HEAD + b"\r\n").startswith(b"HTTP/1.1 200")
        assert server.refused["idle"] >= 1
        # Those that are being answered do not.
        asked = [server.connect() for _ in range(5)]
        for connection in asked:
            connection.sendall(b"GET /slow HTTP/1.1\r\nHost: localhost\r\n\r\n")
            time.sleep(0.05)
        assert server.ask(HEAD + b"\r\n").startswith(b"HTTP/1.1 503")
        assert server.refused["connections"] == 1
        assert all(b'"path": "/slow"' in answer_of(connection) for connection in asked)
        for connection in held + asked:
            connection.close()


def test_connections_in_all() -> None:
    with running(max_connections=4) as server:
        held = [server.connect() for _ in range(10)]
        time.sleep(0.2)
        assert server.ask(HEAD + b"\r\n").startswith(b"HTTP/1.1 200")
        assert server.refused["idle"] >= 6
        for connection in held:
            connection.close()


@pytest.mark.parametrize("start", [b"", b"GET /", HEAD])
def test_a_client_that_sends_no_head_is_cut_off(start: bytes) -> None:
    with running(receive_seconds=0.3) as server:
        # A little at a time is not more time.
        assert server.cuts_off(start, b"X" if start else b"", pieces=20, pause=0.1)
        assert server.refused == {"slow": 1}


def test_a_client_that_does_not_read_is_cut_off() -> None:
    with running(send_seconds=0.3) as server, server.connect() as connection:
        connection.sendall(b"GET /endless HTTP/1.1\r\nHost: localhost\r\n\r\n")
        deadline = time.monotonic() + 5
        while not server.refused["unread"] and time.monotonic() < deadline:
            time.sleep(0.05)
        assert server.refused["unread"] == 1


def test_what_counts_as_one_client() -> None:
    assert network_of("10.0.0.1") == "10.0.0.1"
    assert network_of("::ffff:10.0.0.1") == "10.0.0.1"
    assert network_of("2001:db8::1") == network_of("2001:db8:0:0:ffff::2")
    assert network_of("2001:db8::1") != network_of("2001:db8:0:1::1")
    assert network_of("fe80::1%eth0") == network_of("fe80::2%eth1")


def test_requests_sent_ahead_are_answered_in_their_order() -> None:
    count = 3000
    sent = b"".join(
        b"POST /%d HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%b"
        % (number, size := number * 7 % 2500, b"x" * size)
        for number in range(count)
    )
    with running() as server, server.connect() as connection:
        sender = threading.Thread(target=connection.sendall, args=(sent + LAST,))
        sender.start()
        answers = b"".join(iter(lambda: connection.recv(1 << 16), b""))
        sender.join()
    got = [json.loads(one) for one in re.findall(rb"\{.*?\}", answers)]
    assert [(one["path"], one["body"]) for one in got] == [
        *((f"/{number}", number * 7 % 2500) for number in range(count)), ("/", 0),
    ]  # fmt: skip


def test_requests_sent_ahead_hold_up_nobody_else() -> None:
    with running() as server:
        flooding = [server.connect() for _ in range(20)]
        for connection in flooding:
            connection.setblocking(False)
            connection.send((HEAD + b"\r\n") * 4000)
        before = time.monotonic()
        assert server.ask(HEAD + b"\r\n").startswith(b"HTTP/1.1 200")
        # 80,000 requests take 10 seconds and more.
        assert time.monotonic() - before < 2
        for connection in flooding:
            connection.close()


def test_many_requests_at_once_hold_up_nobody_who_looks() -> None:
    post = b"POST /busy HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n"
    count = 200
    with running(max_connections=300, max_client_connections=300) as server:
        asking = [server.connect() for _ in range(count)]
        for connection in asking:
            connection.sendall(post)
        before = time.monotonic()
        assert server.ask(HEAD + b"\r\n").startswith(b"HTTP/1.1 200")
        waited = time.monotonic() - before
        for connection in asking:
            assert answer_of(connection).startswith(b"HTTP/1.1 200")
            connection.close()
    assert time.monotonic() - before > 0.8  # the others took seconds
    assert waited < 0.4


def test_a_body_of_tiny_chunks_holds_up_nobody_else() -> None:
    head = b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    count = 200_000
    with running() as server:
        answers: list[bytes] = []
        asking = threading.Thread(
            target=lambda: answers.append(server.ask(head, b"1\r\na\r\n" * count + b"0\r\n\r\n"))
        )
        asking.start()
        longest = 0.0
        while asking.is_alive():
            before = time.monotonic()
            assert server.ask(HEAD + b"\r\n").startswith(b"HTTP/1.1 200")
            longest = max(longest, time.monotonic() - before)
        asking.join()
    assert longest < 1.5
    assert b'"body": %d' % count in answers[0]


def test_several_requests_that_offer_another_protocol_are_answered(server: Running) -> None:
    offer = HEAD + b"Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
    with server.connect() as connection:
        connection.sendall(offer * 3 + LAST)
        answers = b"".join(iter(lambda: connection.recv(1 << 16), b""))
    assert answers.count(b"HTTP/1.1 200") == 4
