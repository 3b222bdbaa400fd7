"""Tokens per second and time to first token of several servers, on the same GGUF, in one run.

What is measured, and why: generated tokens of all clients together per second of wall time (what a
machine's owner pays for), and the time from sending a request to its first text (what a person
waits for), as median and 99th percentile; and the server's processor time per token, which other
work on the machine disturbs least. Every client asks one question after another over
streaming HTTP, as a chat front end does; the questions differ, so that no answer comes from a
cache, and ask for long texts, so that few answers end early. All servers are loaded, with the same
KV cache type, context, slots and threads, and are asked one at a time, in short rounds that take
turns (a b c, c b a), so that a machine that changes its pace does so for all.

    python benchmarks/serve_throughput.py model.gguf --llama-server PATH/llama-server --stock

The last line is JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SUBJECTS = (
    "the sea", "a lighthouse", "the moon", "an old clock", "a river", "the desert", "a train",
    "a garden", "the winter", "a violin", "a mountain", "the city at night", "a letter", "a storm",
    "an island", "a library", "the harvest", "a bridge", "a fox", "the forest", "a painter",
    "a bakery", "the north wind", "a teacher", "a sailor", "the market", "a castle", "a comet",
    "a shepherd", "the harbour", "a watchmaker", "the orchard",
)  # fmt: skip


@dataclass
class Peer:
    """A server to measure: how it is started, what its answers count, the GPU memory it took."""

    name: str
    command: list[str]
    port: int
    health: str = "/health"
    reports_usage: bool = True
    memory: int = 0


@dataclass
class Sample:
    """One request."""

    first: float
    seconds: float
    tokens: int


@dataclass
class Result:
    """All requests of one server at one number of clients."""

    samples: list[Sample] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    failures: int = 0

    def figures(self) -> dict[str, float]:
        firsts = sorted(sample.first for sample in self.samples)
        return {
            "tokens_per_second": round(statistics.median(self.rates), 1) if self.rates else 0.0,
            "rates": [round(rate, 1) for rate in self.rates],  # type: ignore[dict-item]
            "cpu_ms_per_token": round(statistics.median(self.cpu), 2) if self.cpu else 0.0,
            "ttft_p50": round(quantile(firsts, 0.5), 3),
            "ttft_p99": round(quantile(firsts, 0.99), 3),
            "requests": len(self.samples),
            "failures": self.failures,
        }


def quantile(ordered: list[float], share: float) -> float:
    """The value below which `share` of an ordered list lies (nearest rank)."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")


def peers(arguments: argparse.Namespace) -> list[Peer]:
    model, threads = str(arguments.model), str(arguments.threads)
    context, slots, layers = str(arguments.ctx), str(arguments.slots), str(arguments.gpu_layers)
    cache = arguments.cache_type
    found = []
    port = free_port()
    ours = [
        sys.executable, "-m", "tuneserve", "serve", model, "--name", "model",
        "--port", str(port), "--threads", threads, "--ctx", context, "--slots", slots,
        "--cache-type-k", cache, "--cache-type-v", cache, "--gpu-layers", layers,
    ]  # fmt: skip
    found.append(Peer("tuneserve", ours, port))
    if arguments.llama_server:
        port = free_port()
        theirs = [
            str(arguments.llama_server), "-m", model, "--alias", "model", "--port", str(port),
            "-t", threads, "-tb", threads, "-c", context, "-np", slots, "-kvu", "-fa", "on",
            "-ctk", cache, "-ctv", cache, "-ngl", layers, "--no-warmup",
        ]  # fmt: skip
        found.append(Peer("llama-server", theirs, port))
    if arguments.stock:
        port = free_port()
        number = {"f16": "1", "q8_0": "8", "q4_0": "2"}[cache]
        stock = [
            sys.executable, "-m", "llama_cpp.server", "--model", model, "--port", str(port),
            "--model_alias", "model", "--n_threads", threads, "--n_threads_batch", threads,
            "--n_ctx", context, "--flash_attn", "true", "--type_k", number, "--type_v", number,
            "--n_gpu_layers", layers, "--interrupt_requests", "false",
        ]  # fmt: skip
        found.append(Peer("stock", stock, port, health="/v1/models", reports_usage=False))
    return found


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@contextmanager
def running(peer: Peer, log: Path) -> Iterator[int]:
    """The process id of the server, ready to answer; it is ended when the block is left."""
    with started(peer, log) as process:
        wait_until_ready(peer, process, log)
        yield process.pid


@contextmanager
def started(peer: Peer, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The server, starting; it is ended when the block is left."""
    with log.open("wb") as output:
        process = subprocess.Popen(peer.command, stdout=output, stderr=subprocess.STDOUT)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_until_ready(peer: Peer, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{peer.port}{peer.health}", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    sys.exit(f"{peer.name} did not start:\n{log.read_text(errors='replace')[-2000:]}")


def cpu_seconds(process: int) -> float:
    """Processor time a process has used, user and system."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def ask(peer: Peer, question: str, max_tokens: int) -> Sample:
    """One streamed request over a raw connection: the load generator must cost little."""
    body: dict[str, Any] = {
        "model": "model",
        "messages": [{"role": "user", "content": question}],
        "max_tokens": max_tokens,
        "temperature": 0.0,
        "stream": True,
    }
    if peer.reports_usage:
        body["stream_options"] = {"include_usage": True}
    data = json.dumps(body).encode()
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
    )
    started = time.perf_counter()
    reader, writer = await asyncio.open_connection("127.0.0.1", peer.port)
    writer.write(head.encode() + data)
    first = 0.0
    chunks = 0
    received = b""
    while block := await reader.read(65536):
        compact = block.replace(b'": "', b'":"')
        chunks += compact.count(b'"content":"') - compact.count(b'"content":""')
        if not first and chunks:
            first = time.perf_counter() - started
        received = (received + block)[-2000:]
    writer.close()
    seconds = time.perf_counter() - started
    tokens = completion_tokens(received) if peer.reports_usage else chunks
    if not tokens or b"[DONE]" not in received:
        raise ConnectionError(f"{peer.name} broke off: {received[-200:]!r}")
    return Sample(first, seconds, tokens)


def completion_tokens(tail: bytes) -> int:
    """The usage figure in the last events of a stream."""
    _, _, after = tail.rpartition(b'"completion_tokens":')
    digits = after.lstrip()[:8]
    return int(digits[: next((i for i, c in enumerate(digits) if not 48 <= c <= 57), 8)] or 0)


async def round_of(
    peer: Peer, clients: int, requests: int, max_tokens: int, result: Result, *, filler: str = ""
) -> int:
    """`clients` at once, `requests` each; returns the tokens generated. `filler` makes the
    prompts longer."""

    async def client(which: int) -> int:
        tokens = 0
        for request in range(requests):
            subject = SUBJECTS[(which + request * 7) % len(SUBJECTS)]
            number = which * 100 + request
            question = f"Write long story no. {number} about {subject}. {filler}"
            try:
                sample = await ask(peer, question, max_tokens)
            except (OSError, ValueError) as error:
                result.failures += 1
                print(f"  {error}", file=sys.stderr)
                continue
            result.samples.append(sample)
            tokens += sample.tokens
        return tokens

    started = time.perf_counter()
    counts = await asyncio.gather(*(client(which) for which in range(clients)))
    result.rates.append(sum(counts) / (time.perf_counter() - started))
    return sum(counts)


def measure(arguments: argparse.Namespace) -> dict[str, dict[str, dict[str, float]]]:
    servers = peers(arguments)
    results = {peer.name: {clients: Result() for clients in arguments.clients} for peer in servers}
    log_directory = Path(arguments.logs)
    log_directory.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        processes = {}
        for peer in servers:
            log = log_directory / f"{peer.name}.log"
            processes[peer.name] = stack.enter_context(running(peer, log))
            asyncio.run(round_of(peer, 2, 1, 16, Result()))
        for clients in arguments.clients:
            for repeat in range(arguments.repeats):
                # a b c, c b a: none is always the first.
                for peer in servers if repeat % 2 == 0 else reversed(servers):
                    measure_round(
                        peer, processes[peer.name], clients, results[peer.name][clients], arguments
                    )
    return {
        name: {str(clients): result.figures() for clients, result in by_clients.items()}
        for name, by_clients in results.items()
    }


def measure_round(
    peer: Peer, process: int, clients: int, result: Result, arguments: argparse.Namespace
) -> None:
    used = cpu_seconds(process)
    tokens = asyncio.run(round_of(peer, clients, arguments.requests, arguments.max_tokens, result))
    result.cpu.append(1000 * (cpu_seconds(process) - used) / max(tokens, 1))
    print(
        f"{peer.name:13} {clients:3} clients {result.rates[-1]:8.1f} tok/s "
        f"{result.cpu[-1]:7.2f} CPU ms a token",
        file=sys.stderr,
    )


def show(results: dict[str, dict[str, dict[str, float]]]) -> None:
    print(
        f"{'server':14}{'clients':>8}{'tok/s':>9}{'TTFT p50':>10}{'p99':>8}"
        f"{'CPU/tok':>10}{'failed':>8}"
    )
    for name, by_clients in results.items():
        for clients, figures in by_clients.items():
            print(
                f"{name:14}{clients:>8}{figures['tokens_per_second']:>9.1f}"
                f"{figures['ttft_p50']:>9.2f}s{figures['ttft_p99']:>7.2f}s"
                f"{figures['cpu_ms_per_token']:>8.2f}ms{figures['failures']:>8}"
            )


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--llama-server", type=Path, default=shutil.which("llama-server"))
    parser.add_argument("--stock", action="store_true", help="measure python -m llama_cpp.server")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 8, 32])
    parser.add_argument("--requests", type=int, default=2, help="requests of each client")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--max-tokens", type=int, default=96)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--ctx", type=int, default=16384)
    parser.add_argument("--slots", type=int, default=32)
    parser.add_argument("--cache-type", default="q8_0", choices=["f16", "q8_0", "q4_0"])
    parser.add_argument("--gpu-layers", type=int, default=0)
    parser.add_argument("--logs", default="/tmp/serve_throughput")
    return parser.parse_args()


if __name__ == "__main__":
    measured = measure(parse())
    show(measured)
    print(json.dumps(measured))
