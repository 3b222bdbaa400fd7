"""A server of made-up replies, for tests of the terminal chat."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Mapping
from http.server import BaseHTTPRequestHandler
from typing import Any, ClassVar

DONE = "data: [DONE]\n\n"


def event(content: str, finish: str | None = None) -> str:
    chunk = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m",
             "choices": [{"index": 0, "delta": {"content": content}, "finish_reason": finish}],
             }  # fmt: skip
    return f"data: {json.dumps(chunk)}\n\n"


class Replies(BaseHTTPRequestHandler):
    """Answers with `body`, in pieces until the client goes; a `missing` number of bytes is said
    to come and not sent. `asked`: the bodies of requests."""

    protocol_version = "HTTP/1.1"
    body: Iterable[str] = ()
    missing: int | None = None
    asked: ClassVar[list[Any]] = []
    headers_too: Mapping[str, str] = {}

    def do_POST(self) -> None:
        type(self).asked.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
        self._answer("text/event-stream")

    def do_GET(self) -> None:
        self._answer("application/json")

    def _answer(self, kind: str) -> None:
        self.send_response(200)
        for name, value in {"content-type": kind, **self.headers_too}.items():
            self.send_header(name, value)
        if self.missing is not None:
            self.send_header("content-length", str(self.missing))
        else:
            self.send_header("connection", "close")
        self.end_headers()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            for piece in self.body:
                self.wfile.write(piece.encode())
                type(self).sent += len(piece)
        self.close_connection = True

    sent = 0

    def log_message(self, *_: Any) -> None:
        """Not into the tests' output."""
