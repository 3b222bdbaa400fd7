"""Replicas behind HAProxy with deploy/haproxy.cfg, beside round robin: what is computed again, and
what a killed replica costs.

Clients ask questions after one of a few long beginnings (a system prompt, a document). The file
sends what begins alike to one replica; round robin lets every replica compute each beginning. Then
the same again with one replica killed (SIGKILL) while it answers, and started anew.

    python benchmarks/deploy_replicas.py model.gguf [--replicas 3] [--clients 64] [--beginnings 8]

Exit code 1 if a request failed that had received nothing.
"""

from __future__ import annotations

import argparse
import json
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from serve_peers import free_port

CONFIG = Path(__file__).resolve().parent.parent / "deploy" / "haproxy.cfg"
TRIES = 600  # tenths of a second that a start may take


def proxy_config(text: str, ports: list[int], listen: int, *, balance: str = "") -> str:
    """The file with replicas at `ports` of this machine, as many as there are; `balance`: what
    every request goes by, in place of its beginning."""
    text = re.sub(r"^resolvers .*?\n\n", "", text, flags=re.MULTILINE | re.DOTALL)
    text = text.replace(" resolvers containers init-addr last,libc,none", "")
    text = text.replace("bind :8080", f"bind 127.0.0.1:{listen}")
    text = re.sub(r"^    server serve-2 .*\n", "", text, flags=re.MULTILINE)
    for found in re.findall(r"^    server serve-1 serve-1:\d+.*\n", text, flags=re.MULTILINE):
        lines = [
            re.sub(r"serve-1:\d+", f"127.0.0.1:{port}", found, count=1).replace(
                "serve-1", f"serve-{n}"
            )
            for n, port in enumerate(ports, 1)
        ]
        text = text.replace(found, "".join(lines))
    if balance:
        text = text.replace("    use_backend by_beginning if { var(txn.beginning) -m found }\n", "")
        text = text.replace("balance leastconn", f"balance {balance}")
    return text


@dataclass
class Replica:
    """One `tuneserve serve` at a port that it keeps."""

    model: Path
    port: int
    log: Path
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [
            sys.executable, "-m", "tuneserve", "serve", str(self.model), "--port", str(self.port),
            "--ctx", "32768", "--slots", "8", "--threads", "1", "--prefix-ram", "0",
            "--max-client-connections", "256",
        ]  # fmt: skip
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)

    def end(self, how: signal.Signals = signal.SIGTERM) -> None:
        if self.process is not None:
            self.process.send_signal(how)
            self.process.wait()


def wait_for(url: str) -> None:
    for _ in range(TRIES):
        try:
            if httpx.get(url, timeout=5).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise SystemExit(f"{url} does not answer")


@contextmanager
def running(
    model: Path, folder: Path, count: int, balance: str
) -> Iterator[tuple[str, list[Replica]]]:
    """The address of a proxy and the replicas behind it, all ready."""
    with ExitStack() as stack:
        replicas = [Replica(model, free_port(), folder / f"{n}.log") for n in range(count)]
        for replica in replicas:
            replica.start()
            stack.callback(replica.end)
        for replica in replicas:
            wait_for(f"http://127.0.0.1:{replica.port}/ready")
        listen, file = free_port(), folder / "haproxy.cfg"
        ports = [replica.port for replica in replicas]
        file.write_text(proxy_config(CONFIG.read_text("utf-8"), ports, listen, balance=balance))
        with (folder / "haproxy.log").open("ab") as log:
            proxy = subprocess.Popen(["haproxy", "-db", "-f", file], stdout=log, stderr=log)
        stack.callback(proxy.wait)
        stack.callback(proxy.terminate)
        wait_for(f"http://127.0.0.1:{listen}/v1/models")
        time.sleep(3)  # until it has checked all
        yield f"http://127.0.0.1:{listen}", replicas


@dataclass
class Round:
    """What came of the requests. `nothing`: failures before a byte of the answer had come."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    seconds: float = 0.0
    statuses: Counter[str] = field(default_factory=Counter)
    nothing: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def figures(self) -> dict[str, Any]:
        return {
            "requests": sum(self.statuses.values()), "statuses": dict(self.statuses),
            "failed_before_anything": self.nothing, "seconds": round(self.seconds, 1),
            "cached_share": round(self.cached_tokens / max(self.prompt_tokens, 1), 3),
        }  # fmt: skip


def ask_all(url: str, beginnings: list[str], options: argparse.Namespace, found: Round) -> None:
    """Every client asks its questions, one after the other, streamed."""

    def client(number: int) -> None:
        with httpx.Client(timeout=600) as http:
            for turn in range(options.requests):
                question = f"Question {number}.{turn}: say something about the number {number}."
                ask(http, beginnings[number % len(beginnings)], question)

    def ask(http: httpx.Client, beginning: str, question: str) -> None:
        messages = [
            {"role": "system", "content": beginning}, {"role": "user", "content": question},
        ]  # fmt: skip
        body = {
            "messages": messages, "max_tokens": 16, "temperature": 0.7, "stream": True,
            "stream_options": {"include_usage": True},
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
        with found.lock:
            found.statuses[status] += 1
            found.nothing += status != "200" and (received == 0 or status.isdecimal())
            if usage is not None:
                found.prompt_tokens += usage["prompt_tokens"]
                found.cached_tokens += usage["prompt_tokens_details"]["cached_tokens"]

    began = time.monotonic()
    with ThreadPoolExecutor(options.clients) as pool:
        list(pool.map(client, range(options.clients)))
    found.seconds = time.monotonic() - began


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


def kill_and_restart(replica: Replica, after: float, told: dict[str, Any]) -> None:
    time.sleep(after)
    replica.end(signal.SIGKILL)
    killed = time.monotonic()
    replica.start()
    wait_for(f"http://127.0.0.1:{replica.port}/ready")
    told["seconds_until_ready"] = round(time.monotonic() - killed, 1)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--replicas", type=int, default=3)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--requests", type=int, default=1, help="of each client")
    parser.add_argument("--beginnings", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=1500, help="of a beginning, about")
    parser.add_argument("--ways", nargs="+", default=["file", "roundrobin", "killed"])
    options = parser.parse_args()
    lost = 0
    with tempfile.TemporaryDirectory() as made:
        for way in options.ways:
            folder = Path(made) / way
            folder.mkdir()
            balance = "" if way in ("file", "killed") else way
            found = Round()
            told: dict[str, Any] = {}
            with running(options.model, folder, options.replicas, balance) as (url, replicas):
                killer = threading.Thread(target=kill_and_restart, args=(replicas[0], 5.0, told))
                if way == "killed":
                    killer.start()
                ask_all(url, texts(options), options, found)
                if way == "killed":
                    killer.join()
            print(json.dumps({"way": way} | found.figures() | told), flush=True)
            lost += found.nothing
    return bool(lost)


if __name__ == "__main__":
    sys.exit(main())
