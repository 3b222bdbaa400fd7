"""`tuneserve serve --replicas`, beside round robin: what is computed again, and what a killed
replica costs.

Clients ask questions after one of a few long beginnings (a system prompt, a document). The proxy
sends what begins alike to one replica; round robin lets every replica compute each beginning. Then
the same again with one replica killed (SIGKILL) while it answers; it is started again by itself.

    python benchmarks/deploy_replicas.py model.gguf [--replicas 3] [--clients 64] [--beginnings 8]

Exit code 1 if a request failed that had received nothing.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import httpx
from serve_peers import free_port

START_SECONDS = 120
MOST_ASKING = 8
ROUND_ROBIN = """
defaults
    mode http
    timeout connect 2s
    timeout client 1h
    timeout server 1h
frontend api
    bind 127.0.0.1:{listen}
    default_backend replicas
backend replicas
    balance roundrobin
{servers}
"""


def wait_until(reached: Callable[[], object], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not reached():
        if time.monotonic() > deadline:
            raise SystemExit(log.read_text())
        time.sleep(0.05)


@dataclass
class Service:
    """`tuneserve serve --replicas` at a port; the replicas are at those after it."""

    port: int
    log: Path

    def process(self, number: int) -> int:
        """Id of a replica's process; it may have been started again."""
        started = rf"^replica {number} is started \(process (\d+)\)"
        return int(re.findall(started, self.log.read_text(), re.MULTILINE)[-1])


@contextmanager
def serving(options: argparse.Namespace, folder: Path) -> Iterator[Service]:
    service = Service(free_port(), folder / "log")
    command = [
        sys.executable, "-m", "tuneserve", "serve", options.model, "--port", str(service.port),
        "--replicas", str(options.replicas), "--threads", str(options.replicas),
        "--ctx", "32768", "--slots", str(options.slots), "--prefix-ram", "0",
        "--queue-seconds", "3600",
    ]  # fmt: skip
    with service.log.open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        listens = f"\nlistening on http://127.0.0.1:{service.port} "
        wait_until(lambda: listens in service.log.read_text(), service.log)
        yield service
    finally:
        process.terminate()
        process.wait()


@contextmanager
def round_robin(service: Service, replicas: int, folder: Path) -> Iterator[int]:
    """The port of another proxy in front of the same replicas."""
    listen, file = free_port(), folder / "haproxy.cfg"
    ports = range(service.port + 1, service.port + 1 + replicas)
    servers = "\n".join(f"    server replica-{port} 127.0.0.1:{port}" for port in ports)
    file.write_text(ROUND_ROBIN.format(listen=listen, servers=servers))
    process = subprocess.Popen(["haproxy", "-db", "-f", file], stdout=subprocess.DEVNULL)
    try:
        wait_until(lambda: answers(f"http://127.0.0.1:{listen}/health"), service.log)
        yield listen
    finally:
        process.terminate()
        process.wait()


def answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5).status_code == 200
    except httpx.TransportError:
        return False


@dataclass
class Round:
    """What came of the requests. `nothing`: failures before a byte of the answer had come.
    `began`, `ended`: by the machine's monotonic clock."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    answer_tokens: int = 0
    began: float = math.inf
    ended: float = 0.0
    statuses: Counter[str] = field(default_factory=Counter)
    nothing: int = 0

    def add(self, other: Round) -> None:
        """Requests of other clients, at the same time."""
        self.prompt_tokens += other.prompt_tokens
        self.cached_tokens += other.cached_tokens
        self.answer_tokens += other.answer_tokens
        self.statuses += other.statuses
        self.nothing += other.nothing
        self.began = min(self.began, other.began)
        self.ended = max(self.ended, other.ended)

    @property
    def seconds(self) -> float:
        return self.ended - self.began

    def figures(self) -> dict[str, Any]:
        return {
            "requests": sum(self.statuses.values()), "statuses": dict(self.statuses),
            "failed_before_anything": self.nothing, "seconds": round(self.seconds, 1),
            "cached_share": round(self.cached_tokens / max(self.prompt_tokens, 1), 3),
            "prompt_tokens_per_second": round(self.prompt_tokens / self.seconds),
            "answer_tokens_per_second": round(self.answer_tokens / self.seconds, 1),
        }  # fmt: skip


def ask_all(url: str, beginnings: list[str], options: argparse.Namespace) -> Round:
    """Every client asks its questions, one after the other, streamed. Several processes ask: one
    reads some 500 tokens a second at most."""
    processes = min(options.clients, MOST_ASKING, os.cpu_count() or 1)
    shares = [range(number, options.clients, processes) for number in range(processes)]
    found = Round()
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
        for part in pool.map(partial(ask, url, beginnings, options), shares):
            found.add(part)
    return found


def ask(
    url: str, beginnings: list[str], options: argparse.Namespace, clients: Sequence[int]
) -> Round:
    """What came of the requests of these clients, a thread each."""
    found = Round()
    lock = threading.Lock()

    def client(number: int) -> None:
        with httpx.Client(timeout=600) as http:
            for turn in range(options.requests):
                question = f"Question {number}.{turn}: say something about the number {number}."
                request(http, beginnings[number % len(beginnings)], question)

    def request(http: httpx.Client, beginning: str, question: str) -> None:
        messages = [
            {"role": "system", "content": beginning}, {"role": "user", "content": question},
        ]  # fmt: skip
        body = {
            "messages": messages, "max_tokens": options.max_tokens, "temperature": 0.7,
            "stream": True, "stream_options": {"include_usage": True},
        }  # fmt: skip
        received, usage, status = 0, None, "broken off"
        try:
            with http.stream("POST", f"{url}/v1/chat/completions", json=body) as response:
                for line in response.iter_lines():
                    received += len(line)
                    if line.startswith("data: {"):
                        usage = json.loads(line[6:]).get("usage") or usage
                if response.status_code != 200 or usage is not None:
                    status = str(response.status_code)
        except httpx.TransportError as error:
            status = type(error).__name__
        with lock:
            found.statuses[status] += 1
            found.nothing += status != "200" and (received == 0 or status.isdecimal())
            if usage is not None:
                found.prompt_tokens += usage["prompt_tokens"]
                found.cached_tokens += usage["prompt_tokens_details"]["cached_tokens"]
                found.answer_tokens += usage["completion_tokens"]

    found.began = time.monotonic()
    with ThreadPoolExecutor(len(clients)) as pool:
        list(pool.map(client, clients))
    found.ended = time.monotonic()
    return found


def texts(options: argparse.Namespace) -> list[str]:
    """Different beginnings of about so many tokens."""
    words = (
        "the sea was calm and grey that morning when a small boat left the harbour for the north"
    )
    return [
        f"You are assistant number {number}. "
        + f"Part {number}: {words}. " * (options.tokens // 22)
        for number in range(options.beginnings)
    ]


def kill_one(service: Service, after: float, told: dict[str, Any]) -> None:
    """SIGKILL for the first replica; returns when it serves again."""
    time.sleep(after)
    os.kill(service.process(1), signal.SIGKILL)
    killed = time.monotonic()
    wait_until(lambda: "replica 1 is ready again" in service.log.read_text(), service.log)
    told["seconds_until_ready"] = round(time.monotonic() - killed, 1)


def measured(way: str, options: argparse.Namespace, folder: Path) -> Round:
    """One round of all clients' requests, its figures printed."""
    told: dict[str, Any] = {}
    with serving(options, folder) as service:
        if way == "roundrobin":
            with round_robin(service, options.replicas, folder) as port:
                found = ask_all(f"http://127.0.0.1:{port}", texts(options), options)
        else:
            killer = threading.Thread(target=kill_one, args=(service, options.kill_after, told))
            if way == "killed":
                killer.start()
            found = ask_all(f"http://127.0.0.1:{service.port}", texts(options), options)
            if way == "killed":
                killer.join()
    print(json.dumps({"way": way} | found.figures() | told), flush=True)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model")
    parser.add_argument("--replicas", type=int, default=3)
    parser.add_argument("--slots", type=int, default=4, help="of each replica")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--requests", type=int, default=1, help="of each client")
    parser.add_argument("--beginnings", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=1500, help="of a beginning, about")
    parser.add_argument("--max-tokens", type=int, default=16, help="of an answer")
    parser.add_argument("--kill-after", type=float, default=5.0, help="seconds")
    parser.add_argument("--ways", nargs="+", default=["beginning", "roundrobin", "killed"])
    options = parser.parse_args()
    lost = 0
    with tempfile.TemporaryDirectory() as made:
        for way in options.ways:
            folder = Path(made) / way
            folder.mkdir()
            lost += measured(way, options, folder).nothing
    return bool(lost)


if __name__ == "__main__":
    sys.exit(main())
