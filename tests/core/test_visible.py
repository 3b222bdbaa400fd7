"""What data, models and clients say reaches a terminal without acting on it or hiding in it."""

from __future__ import annotations

import ast
import asyncio
import io
import json
import logging
import os
import pty
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from tests.support import ROOT
from tuneserve import console
from tuneserve.cli.preview import _marked
from tuneserve.console import print_json, say, table
from tuneserve.errors import TuneserveError
from tuneserve.findings import Finding, show_findings
from tuneserve.finetune.tokens.pieces import Piece
from tuneserve.serve.api.metrics import Metrics
from tuneserve.serve.api.middleware import AccessLog, note
from tuneserve.serve.terminal_chat import Client
from tuneserve.visible import Visible, hidden_parts, json_text, one_line, visible

CLEAR, HIDE, CLIPBOARD, C1 = "\x1b[2J", "\x1b[8m", "\x1b]52;c;ZXZpbA==\x07", "\x9b8m"
OVERRIDE, NO_WIDTH, TAG, SURROGATE = "\u202e", "\u200b\u2060\ufeff", "\U000e0041", "\udc9b"
HOSTILE = f"a{CLEAR}{HIDE}{CLIPBOARD}{C1}{OVERRIDE}{NO_WIDTH}{TAG}{SURROGATE}\r\x08z"
OBEYED = "\x1b\x07\x08\r\x9b\u202e\u200b\u2060\ufeff\U000e0041\udc9b"
SHOWN = (
    r"a\x1b[2J\x1b[8m\x1b]52;c;ZXZpbA==\x07\x9b8m\u202e\u200b\u2060\ufeff\U000e0041\udc9b\r\x08z"
)


def test_what_a_terminal_obeys_or_hides_is_written_out() -> None:
    assert visible(HOSTILE) == SHOWN
    assert "".join(text for text, _ in hidden_parts(HOSTILE)) == SHOWN
    assert one_line("a\nb\tc\u2028d") == r"a\nb\tc\u2028d"


@pytest.mark.parametrize(
    "text", ["naïve 日本語\n\tx", "👩\u200d🚀 ❤\ufe0f 1\ufe0f\u20e3", "می\u200cروم"]
)
def test_text_that_people_write_stays(text: str) -> None:
    assert visible(text) == text


def test_joiners_hide_nothing() -> None:
    assert visible("a\u200db\ufe0f") == r"a\u200db\ufe0f"
    assert visible("日\u200d\u200d\ufe01") == "日\u200d\\u200d\\ufe01"  # one joins, more are data
    assert visible("\ufe0f", before="❤") == "\ufe0f"
    assert visible("\u200d", before="x") == r"\u200d"


@given(st.text(alphabet=st.characters(categories=None)))
def test_json_is_exact_and_harmless(text: str) -> None:
    written = json_text({"a": text})
    assert json.loads(written) == {"a": text}
    assert visible(written, joiners=False) == written
    assert "\n" not in one_line(text)


def test_messages_tables_findings_and_json(capfd: pytest.CaptureFixture[str]) -> None:
    say(f"{HOSTILE}\nforged")
    table(HOSTILE, [f"c{HOSTILE}"], [[f"[red]{HOSTILE}[/]"]])
    show_findings([Finding(HOSTILE, "note", HOSTILE, advice=HOSTILE)])
    with console.progress(HOSTILE, 1, unit="x") as advance:
        advance(1, note=HOSTILE)
    print_json({"a": HOSTILE})
    said = capfd.readouterr()
    assert not set(OBEYED) & set(said.out + said.err)
    assert said.err.startswith(f"{SHOWN}\\nforged\n")
    assert f"[red]{SHOWN}"[:20] in said.err
    assert json.loads(said.out) == {"a": HOSTILE}


def test_an_error_forges_no_other_line() -> None:
    error = TuneserveError("bad\nerror: forged", where="f", problems=["x\nerror: forged"])
    assert [line for line in error.render().split("\n") if line.startswith("error")] == []


def test_a_log_record_is_one_line(caplog: pytest.LogCaptureFixture) -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(Visible())
    logger = logging.Logger("x")
    logger.addHandler(handler)
    logger.warning("a %s", f"b\n12:00:00 GET / 200{HOSTILE}")
    try:
        raise ValueError(f"x\nGET / 200{HOSTILE}")
    except ValueError:
        logger.exception("failed")
    lines = stream.getvalue().splitlines()
    assert lines[0] == rf"a b\n12:00:00 GET / 200{SHOWN}"
    assert lines[1] == "failed"
    assert all(line.startswith("  ") for line in lines[2:])
    assert not set(OBEYED) & set(stream.getvalue())


def test_preview_shows_every_character() -> None:
    """Escapes are shown in reverse: the same letters in the data are not."""
    shown = _marked([Piece(f"{HOSTILE}\\x1b\u200d", "context", trained=False)])
    assert shown.plain == f"{SHOWN}\\x1b\\u200d"
    reverse = {
        shown.plain[one.start : one.end] for one in shown.spans if "reverse" in str(one.style)
    }
    assert {r"\x1b", r"\u202e", r"\u200d", r"\x9b"} <= reverse
    stream = io.StringIO()
    Console(file=stream, force_terminal=False).print(shown)
    assert not set(OBEYED) & set(stream.getvalue())


class _Evil(BaseHTTPRequestHandler):
    """A server whose model name and answers want to act on the terminal."""

    def log_message(self, format: str, *args: object) -> None: ...

    def _send(self, kind: str, body: str) -> None:
        data = body.encode()
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self) -> None:
        model = {
            "id": HOSTILE.replace(SURROGATE, ""),
            "object": "model",
            "created": 0,
            "owned_by": "",
        }
        self._send("application/json", json.dumps({"object": "list", "data": [model]}))

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        pieces = [*HOSTILE.replace(SURROGATE, ""), "\n👩", "\u200d", "🚀"]
        chunks = [
            {
                "id": "x", "object": "chat.completion.chunk", "created": 0, "model": "m",
                "choices": [{"index": 0, "delta": {"content": piece}, "finish_reason": None}],
            }
            for piece in pieces
        ]  # fmt: skip
        lines = [f"data: {json.dumps(chunk)}\n\n" for chunk in chunks]
        self._send("text/event-stream", "".join([*lines, "data: [DONE]\n\n"]))


@contextmanager
def evil_server() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), _Evil) as server:
        threading.Thread(target=server.serve_forever, args=[0.02], daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/v1"
        server.shutdown()


def client_of(url: str, model: str | None = None) -> Client:
    return Client(url, model=model, api_key=None, temperature=0.0, seed=None, max_tokens=None)


def test_chat_shows_an_answer_and_a_file_gets_it_as_it_is() -> None:
    with evil_server() as url:
        _chat_with(url)


def _chat_with(url: str) -> None:
    command = [sys.executable, "-m", "tuneserve", "chat", "--url", url, "--prompt", "hi"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    plain = subprocess.run(command, capture_output=True, check=True, env=environment)
    assert plain.stdout.decode() == f"{HOSTILE.replace(SURROGATE, '')}\n👩\u200d🚀\n"
    master, slave = pty.openpty()
    subprocess.run(command, stdout=slave, stderr=slave, stdin=slave, check=True, env=environment)
    os.close(slave)
    seen = b""
    try:
        while part := os.read(master, 1 << 16):
            seen += part
    except OSError:  # the other side is closed
        pass
    os.close(master)
    shown = seen.decode().replace("\r\n", "\n")
    expected = SHOWN.replace(r"\udc9b", "")
    assert shown == f"{expected}\n👩\u200d🚀\n"


@pytest.mark.parametrize(
    "body",
    [
        "no JSON", "[]", "[1]", '"x"', "null", '{"data": 3}', '{"data": [{"id": "\\udc9b"}]}',
        '{"data": [3]}', '{"data": [{}]}', '{"data": [{"id": 3}]}', 100_000 * "[",
    ],
    ids=lambda body: body[:20],
)  # fmt: skip
def test_a_server_that_sends_something_else_is_one_error(
    body: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_Evil, "do_GET", lambda self: self._send("application/json", body))
    with evil_server() as url, pytest.raises(TuneserveError, match=r"reply|serves no model"):
        list(client_of(url).chat([{"role": "user", "content": "hi"}]))


DEEP = 100_000 * "["


@pytest.mark.parametrize(
    "event",
    ["data: {broken", "data: [1]", 'data: {"choices": 3}', "data: 3", f"data: {DEEP}"],
    ids=lambda event: event[:20],
)
def test_a_broken_event_is_one_error(event: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(self: _Evil) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self._send("text/event-stream", f"{event}\n\ndata: [DONE]\n\n")

    monkeypatch.setattr(_Evil, "do_POST", answer)
    with evil_server() as url, pytest.raises(TuneserveError, match="reply"):
        list(client_of(url, model="m").chat([{"role": "user", "content": "hi"}]))


def test_nothing_else_writes_to_the_terminal() -> None:
    """`print` and the streams are used where text is made visible, and nowhere else; what a process
    of ours (…_child.py) writes is read by the one that started it."""
    own = {"tuneserve/console.py", "tuneserve/json_log.py", "serve/terminal_chat.py"}
    found = []
    for room in ("tuneserve", "finetune", "convert", "serve", "bench"):
        for path in sorted((ROOT / room).rglob("*.py")):
            place = str(path.relative_to(ROOT))
            if place in own or path.stem.endswith("_child"):
                continue
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call):
                    called = ast.unparse(node.func)
                    if called in ("print", "click.echo", "sys.stderr.write", "sys.stdout.write"):
                        found.append(f"{place}:{node.lineno}: {called}")
    assert not found


class _Uncounted(Metrics):
    def __init__(self) -> None: ...

    def requested(self, path: str, status: int) -> None: ...


@pytest.mark.parametrize("style", ["line", "json"])
def test_a_request_forges_no_line_of_the_access_log(
    style: Literal["line", "json"], capfd: pytest.CaptureFixture[str]
) -> None:
    forged = f"x\n12:00:00 GET /v1/models 200\r\n{HOSTILE}"

    async def app(scope: Any, receive: Any, send: Any) -> None:
        note(scope, ignored=forged, model=forged, prompt=forged, id=forged)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def send(message: Any) -> None: ...

    scope = {"type": "http", "method": "GET", "path": f"/{forged}", "client": (forged, 1)}
    log = AccessLog(app, style=style, metrics=_Uncounted())
    asyncio.run(log(scope, lambda: None, send))  # type: ignore[arg-type, return-value]
    said = capfd.readouterr().err
    assert said.count("\n") == 1
    assert not set(OBEYED) & set(said)
    if style == "json":
        assert json.loads(said)["ignored"] == forged
