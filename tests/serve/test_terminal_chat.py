"""The terminal chat where the server fails in the middle of an answer."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from tuneserve.errors import TuneserveError
from tuneserve.serve.terminal_chat import Client


class BreaksOff(BaseHTTPRequestHandler):
    """Announces more of an answer than it sends."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        chunk = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m",
                 "choices": [{"index": 0, "delta": {"content": "Half"}}]}  # fmt: skip
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("content-length", "100000")
        self.end_headers()
        self.wfile.write(f"data: {json.dumps(chunk)}\n\n".encode())
        self.close_connection = True

    def log_message(self, *_: Any) -> None:
        """Not into the tests' output."""


@pytest.fixture
def address() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), BreaksOff)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    thread.join()
    server.server_close()


def test_an_answer_that_breaks_off_is_one_error(address: str) -> None:
    client = Client(address, model="m", api_key=None, temperature=0.0, seed=None, max_tokens=None)
    pieces = client.chat([{"role": "user", "content": "Hello"}])
    assert next(pieces) == "Half"
    with pytest.raises(TuneserveError, match="no server answers here"):
        next(pieces)
