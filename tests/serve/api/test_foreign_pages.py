"""Pages of elsewhere in a real browser: one whose name comes to point to the server (DNS
rebinding), and one that sends forms and requests across sites."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.browser import Browser, running_browser
from tests.support import ModulePaths, RunningServer

pytestmark = pytest.mark.slow

PAGE = b"<!doctype html><title>evil</title><body>evil"


class Relay:
    """What the name evil.example points to: the attacker's page, and then the server itself."""

    def __init__(self, port: int) -> None:
        self._server_port = port
        self.rebound = False
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        # A browser opens connections ahead: whose one is shows when it is used.
        request = connection.recv(65536)
        if self.rebound:
            server = socket.create_connection(("127.0.0.1", self._server_port))
            server.sendall(request)
            threading.Thread(target=_pump, args=(server, connection), daemon=True).start()
            _pump(connection, server)
            return
        head = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nConnection: close\r\n"
        connection.sendall(head + b"Content-Length: %d\r\n\r\n" % len(PAGE) + PAGE)
        connection.close()

    def close(self) -> None:
        self._listener.close()


def _pump(source: socket.socket, target: socket.socket) -> None:
    try:
        while block := source.recv(65536):
            target.sendall(block)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        pass


@pytest.fixture(scope="module")
def open_server(
    start_server: Any, demo_gguf: Path, module_paths: ModulePaths
) -> Iterator[RunningServer]:
    """A server without keys."""
    log = module_paths.mktemp("open") / "log"
    with start_server(log, str(demo_gguf), "--ctx", "512") as running:
        yield running


@pytest.fixture
def relay(open_server: RunningServer) -> Iterator[Relay]:
    relay = Relay(int(open_server.url.rpartition(":")[2]))
    yield relay
    relay.close()


@pytest.fixture
def evil(relay: Relay, tmp_path: Path) -> Iterator[Browser]:
    """A browser that has opened http://evil.example."""
    rules = f"--host-resolver-rules=MAP evil.example:80 127.0.0.1:{relay.port}"
    with running_browser(tmp_path / "profile", rules) as browser:
        browser.call("Page.enable")
        browser.call("Page.navigate", url="http://evil.example/")
        browser.wait("document.title === 'evil'")
        yield browser


def got(browser: Browser, url: str, **options: Any) -> str:
    """What the page's fetch comes to: the status, 'opaque', or that the browser lets it see
    nothing."""
    script = f"""fetch({json.dumps(url)}, {json.dumps(options)}).then(
        answer => answer.type === "opaque" ? "opaque" : String(answer.status), () => "blocked")"""
    return str(browser.run(script))


ASK = json.dumps({"prompt": "a", "max_tokens": 2})
AS_JSON = {"method": "POST", "body": ASK, "headers": {"Content-Type": "application/json"}}


def test_a_page_whose_name_comes_to_be_the_servers(evil: Browser, relay: Relay) -> None:
    relay.rebound = True
    found = {
        "models": got(evil, "/v1/models"),
        "metrics": got(evil, "/metrics"),
        "page": got(evil, "/"),
        "completion": got(evil, "/v1/completions", **AS_JSON),
        "tokens": got(evil, "/tokenize", **{**AS_JSON, "body": '{"content": "a"}'}),
        "health": got(evil, "/health"),
    }
    print("rebound:", found)
    assert found == dict.fromkeys(found, "403")


def test_a_page_that_sends_across_sites(evil: Browser, open_server: RunningServer) -> None:
    url = open_server.url
    plain = {"method": "POST", "body": ASK, "mode": "no-cors"}
    found = {
        "models": got(evil, f"{url}/v1/models"),
        "completion": got(evil, f"{url}/v1/completions", **AS_JSON),
        "completion as text": got(evil, f"{url}/v1/completions", **plain),
        "health": got(evil, f"{url}/health"),
    }
    # A form is sent without being asked about, and its text can be made JSON.
    name, _, rest = json.dumps({"prompt": "a", "max_tokens": 2, "user": "="}).partition("=")
    evil.run(
        f"""document.body.innerHTML = `<form method=post enctype=text/plain
        action="{url}/v1/completions"><input name='{name}' value='{rest}'></form>`;
        document.forms[0].submit()"""
    )
    evil.wait(f"location.href === '{url}/v1/completions'")
    found["form"] = str(evil.run("JSON.parse(document.body.innerText).error.code"))
    print("across sites:", found)
    lines = [line for line in open_server.output().splitlines() if "POST /v1/completions" in line]
    print("\n".join(lines))
    assert found == {
        "models": "blocked",
        "completion": "blocked",
        "completion as text": "opaque",
        "health": "blocked",
        "form": "origin_refused",
    }
    assert lines
    assert all(" 403 " in line for line in lines)


def test_the_servers_own_page_goes_on_after_a_restart(
    start_server: Any, demo_gguf: Path, tmp_path: Path
) -> None:
    """Its token is of one process; the page gets the new one by itself."""
    with start_server(tmp_path / "log", str(demo_gguf), "--ctx", "512") as running:
        port = running.url.rpartition(":")[2]
        with running_browser(tmp_path / "profile") as browser:
            browser.call("Page.enable")
            browser.call("Page.navigate", url=running.url)
            browser.wait("document.querySelectorAll('.column select').length === 1")
            running.stop()
            again = [str(demo_gguf), "--ctx", "512"]
            with start_server(tmp_path / "log2", *again, port=port):
                ask = """document.getElementById('longest').value = 3;
                    document.getElementById('prompt').value = 'Hi';
                    document.getElementById('form').requestSubmit()"""
                browser.run(ask)
                browser.wait("document.querySelectorAll('.figures, .error').length === 1")
                assert not browser.run("document.querySelectorAll('.error').length")
