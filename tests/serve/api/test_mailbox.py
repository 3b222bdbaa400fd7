"""What clients do not read is bounded; it is not lost in silence, and others lose nothing."""

from __future__ import annotations

import asyncio
import gc
import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.base.gguf_support import write_tiny
from tuneserve.gguf.reader import GGUFFile
from tuneserve.serve.api.mailbox import TAKEN_BYTES, Mailboxes, UnreadError
from tuneserve.serve.engine import Delta, TokenLogprob

LARGE = Delta("x" * 10_000, (1,))


def test_the_fullest_ends_and_the_others_keep_everything() -> None:
    async def run() -> None:
        mailboxes = Mailboxes(1_000_000)
        slow, other = mailboxes.new(stream=True), mailboxes.new(stream=True)
        for number in range(30):
            other.put(number, LARGE)
        for number in range(200):
            slow.put(number, LARGE)
        assert slow.size + other.size <= 1_000_000
        ((_, told),) = await slow.take()
        assert isinstance(told, UnreadError)
        assert "max_unread" in told.message
        numbers: list[int] = []
        while len(numbers) < 30:
            batch = await other.take()
            assert len(batch) <= TAKEN_BYTES // 10_000 + 1
            numbers += [number for number, _ in batch]
        assert numbers == list(range(30))
        assert other.size == 0

    asyncio.run(run())


def test_what_is_read_or_gone_takes_no_room() -> None:
    async def run() -> None:
        mailboxes = Mailboxes(1_000_000)
        reader = mailboxes.new(stream=True)
        for _ in range(10):
            gone = mailboxes.new(stream=True)
            for _ in range(60):
                gone.put(0, LARGE)
            del gone
            gc.collect()
            for _ in range(60):
                reader.put(0, LARGE)
            left = 60
            while left:
                batch = await reader.take()
                assert all(event is LARGE for _, event in batch)
                left -= len(batch)

    asyncio.run(run())


def test_whole_answers_wait_for_nobody() -> None:
    async def run() -> None:
        mailboxes = Mailboxes(10_000)
        whole = mailboxes.new(stream=False)
        many = tuple(TokenLogprob(1, -1.0, ((1, -1.0),) * 20) for _ in range(100))
        whole.put(0, Delta("", (1,), many))
        ((_, event),) = await whole.take()
        assert isinstance(event, Delta)

    asyncio.run(run())


def test_a_stream_that_is_not_read_ends_with_an_error_and_others_with_their_answer(
    start_server: Callable[..., Any], tmp_path: Path, demo_gguf: Path
) -> None:
    model = write_tiny(
        tmp_path / "tiny.gguf", GGUFFile(demo_gguf), entries={"context_length": 4096}
    )
    options = ["--ctx", "32768", "--max-unread", "1", "--threads", "1", "--prefix-ram", "0"]
    options += ["--cache-type-k", "f16", "--cache-type-v", "f16"]
    with start_server(tmp_path / "log", str(model), *options) as running:
        host, port = running.url.removeprefix("http://").split(":")
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect((host, int(port)))
        with connection:
            asked = {"prompt": "a", "n": 7, "max_tokens": 4000, "logprobs": 5}
            connection.sendall(_request({**asked, "stream": True, "ignore_eos": True}))
            other = {"prompt": "b", "max_tokens": 4000, "stream": True, "ignore_eos": True}
            with socket.create_connection((host, int(port))) as reader:
                reader.sendall(_request(other))
                read = _events(reader)
            assert read[-1] == "[DONE]"
            assert json.loads(read[-2])["choices"][0]["finish_reason"] == "length"
            unread = _events(connection)
            told = json.loads(unread[-1])["error"]
            assert told["code"] == "unread", told
            assert len(unread) > 100  # what was sent before comes whole
            assert all(json.loads(event)["choices"] for event in unread[:-1])


def _request(body: dict[str, Any]) -> bytes:
    data = json.dumps(body).encode()
    return (
        b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(data), data)
    )


def _events(connection: socket.socket) -> list[str]:
    """Of a body in chunks, each of which holds whole lines."""
    connection.settimeout(60)
    received = b""
    while piece := connection.recv(1 << 20):
        received += piece
    lines = received.decode().splitlines()
    return [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
