"""The proxy's rules send what begins alike to one replica. Its replicas here answer with their own
port."""

from __future__ import annotations

import json
import select
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.http_servers import answering
from tests.support import ModulePaths
from tuneserve.serve.api.errors import ApiError
from tuneserve.serve.replicas.configuration import (
    EARLY_ERRORS,
    configuration,
    containers_configuration,
    error_response,
)
from tuneserve.settings import ServeSettings

pytestmark = pytest.mark.skipif(shutil.which("haproxy") is None, reason="haproxy is not installed")
REPLICAS = 3
SETTINGS = ServeSettings(max_client_connections=20)


class Named(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        assert isinstance(self.server, ThreadingHTTPServer)
        content = str(self.server.server_port).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.do_GET()

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def running_proxy(folder: Path, rules: Callable[[str], str]) -> Iterator[httpx.Client]:
    """The proxy with these rules, given where it is to listen; it has answered."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        listen = free.getsockname()[1]
    file = folder / "haproxy.cfg"
    file.write_text(rules(f"127.0.0.1:{listen}"))
    process = subprocess.Popen(["haproxy", "-db", "-f", file], stderr=subprocess.DEVNULL)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{listen}") as client:
            for _ in range(100):
                try:
                    client.get("/v1/models")
                    break
                except httpx.TransportError:
                    time.sleep(0.05)
            yield client
    finally:
        process.terminate()
        process.wait()


@pytest.fixture(scope="module")
def proxy(module_paths: ModulePaths) -> Iterator[httpx.Client]:
    with ExitStack() as stack:
        servers = [stack.enter_context(answering(Named)) for _ in range(REPLICAS)]
        ports = [server.server_port for server in servers]
        rules = partial(configuration, SETTINGS, ports)
        yield stack.enter_context(running_proxy(module_paths.mktemp("proxy"), rules))


def asked(proxy: httpx.Client, path: str, body: dict[str, Any], **headers: str) -> str:
    """The replica that answers."""
    return proxy.post(path, json=body, headers=headers).raise_for_status().text


def chat(system: Any, question: str) -> dict[str, Any]:
    messages = [{"role": "system", "content": system}, {"role": "user", "content": question}]
    return {"model": "m", "messages": messages}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", lambda start, n: chat(start, f"Question {n}")),
        ("/v1/chat/completions", lambda start, n: chat([{"type": "text", "text": start}], f"{n}")),
        ("/v1/messages", lambda start, n: {"system": start, "messages": [{"content": f"{n}"}]}),
        ("/v1/responses", lambda start, n: {"instructions": start, "input": f"{n}"}),
        ("/v1/completions", lambda start, n: {"prompt": start, "seed": n}),
    ],
)
def test_what_begins_alike_goes_to_one_replica(proxy: httpx.Client, path: str, body: Any) -> None:
    starts = [f'Beginning {n}: "ü" \\ ' + "word " * 2000 for n in range(12)]
    found = [{asked(proxy, path, body(start, n)) for n in range(3)} for start in starts]
    assert all(len(replicas) == 1 for replicas in found)
    assert len(set().union(*found)) == REPLICAS


def test_a_session_stays_and_the_rest_is_spread(proxy: httpx.Client) -> None:
    path = "/v1/chat/completions"
    sessions = [
        {asked(proxy, path, chat(f"{m}", "?"), **{"X-Session-Id": f"s{n}"}) for m in range(3)}
        for n in range(12)
    ]
    assert all(len(replicas) == 1 for replicas in sessions)
    assert len(set().union(*sessions)) == REPLICAS
    # Without a beginning that can be read, and longer than the proxy reads.
    assert len({asked(proxy, path, {"messages": 3}) for _ in range(12)}) == REPLICAS
    assert len({asked(proxy, path, chat("long " * 300_000, "?")) for _ in range(12)}) == REPLICAS
    assert proxy.get("/metrics").status_code == 404


def test_bodies_arrive_whole(proxy: httpx.Client) -> None:
    body = json.dumps(chat("long " * 300_000, "?"))
    assert proxy.post("/v1/chat/completions", content=body).status_code == 200


def test_one_address_has_so_many_connections(proxy: httpx.Client) -> None:
    at = ("127.0.0.1", proxy.base_url.port)
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_connection(at)) for _ in range(24)]
        # Its threads take them up in any order. The client of the other tests may hold one more.
        refused: list[socket.socket] = []
        until = time.monotonic() + 30
        while len(refused) < 4 and time.monotonic() < until:
            refused, _, _ = select.select(sockets, [], [], 0.1)
        assert 4 <= len(refused) <= 5
        for one in refused:
            # A reset, or an end, by what arrives first.
            with suppress(ConnectionResetError):
                assert one.recv(1) == b""
        taken = next(one for one in sockets if one not in refused)
        taken.settimeout(30)
        taken.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert taken.recv(12) == b"HTTP/1.1 200"
    assert proxy.get("/health").status_code == 200


@pytest.mark.parametrize("kind", ["replicas", "files", "containers"])
def test_its_own_errors_are_in_the_apis_form(kind: str, tmp_path: Path) -> None:
    """With answers in files too, as `serve --replicas` gives it."""
    files = {}
    for status in EARLY_ERRORS if kind == "files" else ():
        files[status] = str(tmp_path / f"{status}.http")
        Path(files[status]).write_bytes(error_response(status))
    hasty = SETTINGS.model_copy(update={"receive_seconds": 1})
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))

        def rules(bind: str) -> str:
            if kind != "containers":
                return configuration(hasty, [nobody.getsockname()[1]], bind, files)
            made = containers_configuration().replace("bind :8080", f"bind {bind}")
            return made.replace("http-request 60s", "http-request 1s")

        with running_proxy(tmp_path, rules) as proxy:
            nowhere = proxy.post("/v1/chat/completions", json=chat("a", "b"))
            elsewhere = proxy.get("/metrics")
            late = answered(proxy, b"Content-Length: 9", b"{")
            wrong = answered(proxy, b"Transfer-Encoding: chunked", b"no length")
    assert (nowhere.status_code, nowhere.json()["error"]["type"]) == (503, "server_error")
    assert nowhere.headers["Retry-After"] == "1"
    assert (elsewhere.status_code, elsewhere.json()["error"]["code"]) == (404, "unknown_url")
    assert late.startswith(b"HTTP/1.1 408 ")
    assert wrong.startswith(b"HTTP/1.1 400 ")
    told = [json.loads(one.partition(b"\r\n\r\n")[2]) for one in (late, wrong)]
    assert {one["error"]["code"] for one in (*told, nowhere.json())} == {"proxy"}
    for one in (*told, nowhere.json(), elsewhere.json()):
        assert one.keys() == {"type", "error"}
        assert one["error"].keys() == ApiError(400, "").body["error"].keys()


def answered(proxy: httpx.Client, field: bytes, begun: bytes) -> bytes:
    """What comes back of a request that never is whole; its body begins after its head."""
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n%s\r\n\r\n" % field
    with socket.create_connection(("127.0.0.1", proxy.base_url.port), 30) as client:
        client.sendall(head)
        time.sleep(0.2)
        client.sendall(begun)
        received = b""
        while not received.endswith(b"}}") and (part := client.recv(4096)):
            received += part
        return received
