"""Attacks on a running server, and what its other clients notice of each.

    python benchmarks/serve_attacks.py MODEL.gguf [--root CHECKOUT] [--only NAME,…] [-- OPTION …]

While one attack after the other runs, an honest client streams an answer and asks /health on a new
connection every 50 ms. Printed of each attack: the longest wait for /health (DEAD: none within 20
s), the longest gap in the stream, the server's memory before, at its most and after, and what the
attacker was told. --root measures another checkout of this repository, such as an older one. What
stands behind -- are options of `tuneserve serve`: with `--prefix-ram 0` what grows is no cache.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PATIENCE = 20.0
"""Seconds after which a /health that is not answered counts as dead."""
MOST_MEMORY = 6 << 30
"""Bytes of address space that the server may take beyond its model: the machine has others."""
JSON = "Content-Type: application/json\r\n"


@dataclass
class Target:
    """The server that is attacked."""

    port: int
    pid: int
    told: Counter[str] = field(default_factory=Counter)

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE)

    def post(self, path: str, body: bytes, *, seconds: float = PATIENCE) -> None:
        """Send a request; what comes back is counted."""
        head = (
            f"POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{JSON}"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        with self.connect() as connection:
            connection.settimeout(seconds)
            try:
                connection.sendall(head.encode() + body)
                self.hear(connection)
            except OSError as error:
                self.told[type(error).__name__] += 1

    def hear(self, connection: socket.socket) -> None:
        try:
            start = connection.recv(4096)
            self.told[start[9:12].decode("ascii", "replace") or "closed"] += 1
        except OSError as error:
            self.told[type(error).__name__] += 1

    @property
    def memory(self) -> float:
        """RSS in MiB; 0 once the process is gone."""
        try:
            status = Path(f"/proc/{self.pid}/status").read_text()
        except OSError:
            return 0.0
        found = re.search(r"VmRSS:\s+(\d+)", status)
        return int(found[1]) / 1024 if found else 0.0


def nothing(_: Target) -> None:
    """What the machine's other work does."""
    time.sleep(5)


def endless_header(target: Target) -> None:
    """200 MiB of one header's value."""
    with target.connect() as connection:
        with contextlib.suppress(OSError):
            connection.sendall(b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nX-A: ")
            for _ in range(200):
                connection.sendall(b"a" * (1 << 20))
        target.hear(connection)


def many_headers(target: Target) -> None:
    """20,000 headers, ten times."""
    lines = b"".join(b"X-%d: a\r\n" % number for number in range(20_000))
    for _ in range(10):
        with target.connect() as connection:
            with contextlib.suppress(OSError):
                connection.sendall(
                    b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n" + lines + b"\r\n"
                )
            target.hear(connection)


def endless_trailer(target: Target) -> None:
    """100 MiB of a trailer behind a chunked body."""
    with target.connect() as connection:
        with contextlib.suppress(OSError):
            connection.sendall(
                b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n"
                + JSON.encode()
                + b"\r\n2\r\n{}\r\n0\r\nX-A: "
            )
            for _ in range(100):
                connection.sendall(b"a" * (1 << 20))
        target.hear(connection)


def _held(target: Target, count: int, start: bytes, seconds: float = 5.0) -> None:
    connections = []
    for _ in range(count):
        try:
            connection = target.connect()
            connection.sendall(start)
            connections.append(connection)
        except OSError as error:
            target.told[type(error).__name__] += 1
    time.sleep(seconds)
    for connection in connections:
        connection.close()
    target.told["held"] += len(connections)


def silent(target: Target) -> None:
    """1,500 connections that send nothing."""
    _held(target, 1500, b"")


def half_heads(target: Target) -> None:
    """1,500 halves of a request's head."""
    _held(target, 1500, b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nX-A")


def half_bodies(target: Target) -> None:
    """500 halves of small bodies."""
    head = f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n{JSON}Content-Length: 9999\r\n\r\n"
    _held(target, 500, head.encode() + b'{"prompt": "')


def large_half_bodies(target: Target) -> None:
    """48 bodies of 16 MiB without their last byte."""
    head = (
        f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n{JSON}"
        f"Content-Length: {16 << 20}\r\n\r\n"
    )
    _held(target, 48, head.encode() + b" " * ((16 << 20) - 1), 3.0)


def slow_readers(target: Target) -> None:
    """300 clients that ask for 10 long answers and read nothing of them."""
    ask = b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n"
    _held(target, 300, ask * 10, 4.0)


def unread_streams(target: Target) -> None:
    """500 clients that ask for long streams and read nothing of them, half of them of four answers
    with log probabilities."""
    streams = []
    for number in range(500):
        asked: dict[str, Any] = {
            "prompt": f"{number} Once upon a time", "max_tokens": 100_000, "stream": True,
            "ignore_eos": True, **({"n": 4, "logprobs": 5} if number % 2 else {}),
        }  # fmt: skip
        body = json.dumps(asked).encode()
        head = (
            f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n{JSON}"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        stream = socket.socket()
        stream.settimeout(PATIENCE)
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # so that little is on its way
        try:
            stream.connect(("127.0.0.1", target.port))
            stream.sendall(head.encode() + body)
            streams.append(stream)
        except OSError as error:
            target.told[type(error).__name__] += 1
    time.sleep(30)
    for stream in streams:
        stream.settimeout(0.1)
        target.hear(stream)
        stream.close()


SEND = '"messages": [{"role": "user", "content": "Make up a word."}], "max_tokens": 8'


def _schema(schema: Any) -> bytes:
    form = {"type": "json_schema", "json_schema": {"schema": schema}}
    return f'{{{SEND}, "response_format": {json.dumps(form)}}}'.encode()


def patterns(target: Target) -> None:
    """Patterns and a grammar of 50 optional letters, one after the other."""
    target.post("/v1/chat/completions", _schema({"type": "string", "pattern": "^([a-z]?){50}$"}))
    pattern = f"^{'[a-z]?' * 50}$"
    target.post("/v1/chat/completions", _schema({"type": "string", "pattern": pattern}))
    grammar = json.dumps("root ::= " + "[a-z]? " * 50)
    body = f'{{"prompt": "a", "max_tokens": 4, "grammar": {grammar}}}'
    target.post("/v1/completions", body.encode())


def enum(target: Target) -> None:
    """An enum of 20,000 numbers."""
    numbers = [str(number) for number in range(20_000)]
    target.post("/v1/chat/completions", _schema({"enum": numbers}))


def all_of(target: Target) -> None:
    """Parts that require the same empty name, n times n: 0.14 and 1 MB."""
    for count in (6000, 40_000):
        part = {"required": [""] * count}
        body = {"allOf": [{"$ref": "#/$defs/a"}] * count, "$defs": {"a": part}}
        target.post("/v1/chat/completions", _schema(body))


def nulls(target: Target) -> None:
    """Prompts and messages that are lists of nothing, 2 and 15 MB."""
    for count in (400_000, 3_000_000):
        listed = b"[" + b"null," * count + b"null]"
        target.post("/v1/completions", b'{"prompt":' + listed + b"}")
        target.post("/v1/chat/completions", b'{"messages":' + listed + b"}")


def unknown_fields(target: Target) -> None:
    """A million fields that nobody knows."""
    fields = b",".join(b'"a%d":1' % number for number in range(1_000_000))
    target.post("/v1/completions", b'{"prompt":"a",' + fields + b"}")


def wrong_biases(target: Target) -> None:
    """A million biases that are no numbers."""
    fields = b",".join(b'"%d":"x"' % number for number in range(1_000_000))
    target.post("/v1/completions", b'{"prompt":"a","logit_bias":{' + fields + b"}}")


def deep(target: Target) -> None:
    """Lists in lists, five million."""
    for text in (b"[" * 5_000_000, b'{"a":' * 2_000_000, b"[[]" + b",[]" * 5_000_000 + b"]"):
        target.post("/v1/completions", b'{"prompt":' + text + b"}")


def long_names(target: Target) -> None:
    """A model's name of 8 MB, and numbers of as many digits."""
    target.post("/v1/completions", b'{"prompt":"a","model":"' + b"demo" * 2_000_000 + b'"}')
    target.post("/v1/completions", b'{"prompt":"a","seed":' + b"9" * 8_000_000 + b"}")


def special_tokens(target: Target) -> None:
    """Special tokens written out, 2 MB and 15 MB; spaces and letters without end."""
    for text in (
        "<|im_start|>" * 170_000,
        "<|im_start|>" * 1_250_000,
        "a" * 15_000_000,
        " " * 15_000_000,
    ):
        quoted = json.dumps(text)
        target.post("/tokenize", f'{{"content": {quoted}}}'.encode())
        target.post("/v1/completions", f'{{"prompt": {quoted}}}'.encode())
        messages = f'{{"messages": [{{"role": "user", "content": {quoted}}}]}}'
        target.post("/v1/chat/completions", messages.encode())


ATTACKS: dict[str, Callable[[Target], None]] = {
    attack.__name__: attack
    for attack in (
        nothing, endless_header, many_headers, endless_trailer, silent, half_heads, half_bodies,
        large_half_bodies, slow_readers, unread_streams, patterns, enum, all_of, nulls,
        unknown_fields, wrong_biases, deep, long_names, special_tokens,
    )
}  # fmt: skip


class Honest:
    """A client that streams, and one that asks /health."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._stop = threading.Event()
        self.wait = 0.0
        self.gap = 0.0
        self.refused = 0
        self.memory = target.memory
        self._threads = [threading.Thread(target=run) for run in (self._health, self._stream)]

    def __enter__(self) -> Honest:
        for thread in self._threads:
            thread.start()
        time.sleep(0.3)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _health(self) -> None:
        while not self._stop.is_set():
            started = time.monotonic()
            try:
                with self._target.connect() as connection:
                    connection.sendall(
                        b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
                    )
                    self.refused += b" 200 " not in connection.recv(1024)[:16]
            except OSError:
                self.refused += 1
            self.wait = max(self.wait, time.monotonic() - started)
            self.memory = max(self.memory, self._target.memory)
            self._stop.wait(0.05)

    def _stream(self) -> None:
        body = json.dumps(
            {"prompt": "Once upon a time", "max_tokens": 100_000, "stream": True,
             "ignore_eos": True}
        ).encode()  # fmt: skip
        head = (
            f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{JSON}"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        while not self._stop.is_set():
            with contextlib.suppress(OSError), self._target.connect() as connection:
                connection.sendall(head.encode() + body)
                connection.settimeout(0.1)
                last = time.monotonic()
                while not self._stop.is_set():
                    try:
                        if not connection.recv(65536):
                            break
                        last = time.monotonic()
                    except TimeoutError:
                        self.gap = max(self.gap, time.monotonic() - last)


@contextlib.contextmanager
def running(root: Path, model: Path, arguments: list[str]) -> Iterator[Target]:
    """The server of a checkout, on a free port."""

    def bounded() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (1024, most))  # as systems have it

    with tempfile.NamedTemporaryFile("r+") as log:
        command = [sys.executable, "-m", "tuneserve", "serve", str(model), "--port", "0"]
        process = subprocess.Popen(
            [*command, "--log", "off", *arguments],
            cwd=root,
            env={**os.environ, "PYTHONPATH": str(root)},
            stderr=log,
            preexec_fn=bounded,
        )
        try:
            for _ in range(600):
                told = Path(log.name).read_text()
                if found := re.search(r"listening on http://[^ ]*:(\d+)", told):
                    break
                if process.poll() is not None:
                    raise SystemExit(told)
                time.sleep(0.1)
            else:
                raise SystemExit("the server did not start")
            yield Target(int(found[1]), process.pid)
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("model", type=Path)
    parser.add_argument("--root", type=Path, default=Path(__file__).resolve().parent.parent)
    parser.add_argument("--only", default="", help="attacks, separated by commas")
    given, _, options = " ".join(sys.argv[1:]).partition(" -- ")
    arguments = parser.parse_args(given.split())
    chosen = arguments.only.split(",") if arguments.only else [*ATTACKS]
    # The attacker's own connections.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    row = "{:18} {:>9} {:>9} {:>7} {:>7} {:>7}  {}"
    print(row.format("attack", "/health s", "stream s", "before", "most", "after", "told"))
    for name in chosen:
        usual = ["--ctx", "4096", "--slots", "4", "--threads", "1", *options.split()]
        with running(arguments.root, arguments.model.resolve(), usual) as target:
            time.sleep(1.0)
            before = target.memory
            limit = threading.Thread(target=ATTACKS[name], args=(target,), daemon=True)
            with Honest(target) as honest:
                limit.start()
                limit.join(90)
            time.sleep(1.5)
            told = ", ".join(f"{what} ×{count}" for what, count in target.told.items())
            if honest.refused:
                told += f"; {honest.refused} /health not answered"
            wait = "DEAD" if honest.wait > PATIENCE - 1 else f"{honest.wait:.2f}"
            figures = (f"{value:.0f}" for value in (before, honest.memory, target.memory))
            print(row.format(name, wait, f"{honest.gap:.2f}", *figures, told), flush=True)


if __name__ == "__main__":
    main()
