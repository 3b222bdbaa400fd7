"""The terminal chat where the server fails in the middle of an answer."""

from __future__ import annotations

import contextlib
import itertools
import json
import threading
from collections.abc import Iterable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from tests.support import Runner
from tuneserve.chat.template import Message
from tuneserve.errors import TuneserveError
from tuneserve.serve.terminal_chat import Client, ask

DONE = "data: [DONE]\n\n"
GREETING: list[Message] = [{"role": "user", "content": "Hello"}]


def _event(content: str, finish: str | None = None) -> str:
    chunk = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m",
             "choices": [{"index": 0, "delta": {"content": content}, "finish_reason": finish}],
             }  # fmt: skip
    return f"data: {json.dumps(chunk)}\n\n"


class Replies(BaseHTTPRequestHandler):
    """Answers with `body`, in pieces until the client goes; a `missing` number of bytes is said
    to come and not sent."""

    protocol_version = "HTTP/1.1"
    body: Iterable[str] = ()
    missing: int | None = None
    headers_too: Mapping[str, str] = {}

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
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


@pytest.fixture
def replies() -> type[Replies]:
    return type("Replies", (Replies,), {})


@pytest.fixture
def address(replies: type[Replies]) -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), replies)
    thread = threading.Thread(target=server.serve_forever, args=[0.02])
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    thread.join()
    server.server_close()


def _client(address: str, model: str | None = "m") -> Client:
    return Client(address, model=model, api_key=None, temperature=0.0, seed=None, max_tokens=None)


def test_an_answer_that_breaks_off_is_one_error(address: str, replies: type[Replies]) -> None:
    replies.body, replies.missing = [_event("Half")], 100_000
    pieces = _client(address).chat(GREETING)
    assert next(pieces) == "Half"
    with pytest.raises(TuneserveError, match="no server answers here"):
        next(pieces)


@pytest.mark.parametrize(
    "rest", ["", ": ping\n\n", _event("\ndata: [DONE]\n\n"), _event(" of it").rstrip()]
)
def test_a_stream_that_is_closed_before_its_end_is_no_answer(
    rest: str, address: str, replies: type[Replies], capsys: pytest.CaptureFixture[str]
) -> None:
    replies.body = [_event("Half"), rest]
    with pytest.raises(TuneserveError, match="the answer broke off"):
        ask(_client(address), "Hello", system="", raw=False)
    assert capsys.readouterr().out.startswith("Half")


def test_the_command_fails_for_half_an_answer(
    tuneserve: Runner, address: str, replies: type[Replies]
) -> None:
    replies.body = [_event("Half")]
    done = tuneserve("chat", "--url", address, "--model", "m", "--prompt", "Hello")
    assert (done.returncode, done.stdout) == (1, "Half\n")
    assert done.stderr.startswith(f"error: {address}: the answer broke off")


@pytest.mark.parametrize(
    ("rest", "told"),
    [
        ([DONE], ""), (["data: [DO", "NE]\r\n\r\n"], ""), (["data:[DONE]\n\n"], ""),
        ([_event("", "stop")], ""), ([_event("", "stop"), DONE], ""),
        ([_event("", "length"), DONE], "as long as it may be"),
        ([_event("", "content_filter"), DONE], "left out a part"),
    ],
)  # fmt: skip
def test_why_an_answer_ended_is_told(
    rest: list[str], told: str, address: str, replies: type[Replies],
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    replies.body = [_event("All"), *rest]
    assert ask(_client(address), "Hello", system="", raw=False) == "All"
    said = capsys.readouterr().err
    assert told in said
    assert bool(said) == bool(told)


@pytest.mark.parametrize(
    "body",
    [
        '{"data": {"x": 1}}', '{"data": "m"}', '{"data": [[]]}', '{"data": {"0": {"id": "m"}}}',
    ],
)  # fmt: skip
def test_a_list_of_models_that_is_none_is_one_error(
    body: str, address: str, replies: type[Replies]
) -> None:
    replies.body = [body]
    with pytest.raises(TuneserveError, match="reply is not that of an OpenAI-compatible API"):
        _client(address, None)


@pytest.mark.parametrize(
    "choices",
    [{"x": 1}, "x", 3, [3], [None], [[]], [{"delta": 3}], [{"delta": {"content": {"a": 1}}}],
     [{"delta": {"content": "x"}, "finish_reason": 3}]],
    ids=str,
)  # fmt: skip
def test_choices_that_are_none_are_one_error(
    choices: Any, address: str, replies: type[Replies]
) -> None:
    replies.body = [f"data: {json.dumps({'choices': choices})}\n\n", DONE]
    with pytest.raises(TuneserveError):
        list(_client(address).chat(GREETING))


@pytest.mark.parametrize("line", ["data: ", "data: x\n", "x", ": "])
def test_an_event_without_end_is_one_error_and_no_memory(
    line: str, address: str, replies: type[Replies]
) -> None:
    piece = line * (100_000 // len(line))
    replies.body = itertools.chain([_event("Half")], itertools.repeat(piece, 500))
    pieces = _client(address).chat(GREETING)
    assert next(pieces) == "Half"
    with pytest.raises(TuneserveError, match="an event of more than 1 MiB"):
        next(pieces)
    assert replies.sent < 20 << 20  # of 50 MB; what lies in the buffers between is sent


def test_a_list_of_models_without_end_is_one_error(address: str, replies: type[Replies]) -> None:
    replies.body = itertools.repeat(" " * 100_000, 500)
    with pytest.raises(TuneserveError, match="more than 16 MiB"):
        _client(address, None)


def test_a_compressed_reply_is_not_unpacked(address: str, replies: type[Replies]) -> None:
    replies.headers_too = {"content-encoding": "gzip"}
    with pytest.raises(TuneserveError, match="is compressed"):
        list(_client(address).chat(GREETING))


def test_many_events_are_as_long_as_they_like(address: str, replies: type[Replies]) -> None:
    replies.body = [*[_event("x" * 100_000)] * 30, DONE]
    assert len("".join(_client(address).chat(GREETING))) == 3_000_000
