"""A load of streaming chat clients, and what is measured of it.

Every client asks one question after another over streaming HTTP, as a chat front end does. No two
questions of a run begin alike, so that no answer comes from a cache, but every server is asked
the same ones; they ask for long texts, so that few answers end early.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from serve_peers import Peer

SUBJECTS = (
    "the sea", "a lighthouse", "the moon", "an old clock", "a river", "the desert", "a train",
    "a garden", "the winter", "a violin", "a mountain", "the city at night", "a letter", "a storm",
    "an island", "a library", "the harvest", "a bridge", "a fox", "the forest", "a painter",
    "a bakery", "the north wind", "a teacher", "a sailor", "the market", "a castle", "a comet",
    "a shepherd", "the harbour", "a watchmaker", "the orchard",
)  # fmt: skip

SAMPLINGS: dict[str, dict[str, float]] = {
    "greedy": {"temperature": 0.0},
    "sampled": {"temperature": 0.7, "top_p": 0.95},
    "sampled alone": {"temperature": 0.7, "top_p": 0.95, "top_k": 0, "min_p": 0.0},
}
"""What a request says of sampling. `sampled` leaves the rest to each server, as clients do: those
of llama.cpp then cut to 40 tokens and by min_p first. `sampled alone` asks all for the same."""


@dataclass
class Sample:
    """One request: seconds to its first text and to its end, tokens generated."""

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

    def figures(self) -> dict[str, Any]:
        firsts = sorted(sample.first for sample in self.samples)
        return {
            "tokens_per_second": round(statistics.median(self.rates), 1) if self.rates else 0.0,
            "rates": [round(rate, 1) for rate in self.rates],
            "cpu_ms_per_token": round(statistics.median(self.cpu), 2) if self.cpu else 0.0,
            "ttft_p50": quantile(firsts, 0.5),
            "ttft_p99": quantile(firsts, 0.99),
            "requests": len(self.samples),
            "failures": self.failures,
        }


def quantile(ordered: list[float], share: float) -> float | None:
    """The value below which `share` of an ordered list lies (nearest rank), to milliseconds."""
    if not ordered:
        return None
    return round(ordered[min(len(ordered) - 1, int(share * len(ordered)))], 3)


@dataclass
class Load:
    """What each client sends. `filler` makes the prompts longer."""

    requests: int
    max_tokens: int
    sampling: dict[str, float] = field(default_factory=lambda: SAMPLINGS["greedy"])
    filler: str = ""


def measure_round(
    peer: Peer, process: int, clients: int, load: Load, result: Result, *, number: int
) -> None:
    """One round of `clients` at once, added to `result`; its prompts are those of `number`."""
    used = cpu_seconds(process)
    tokens = asyncio.run(round_of(peer, clients, load, result, number=number))
    result.cpu.append(1000 * (cpu_seconds(process) - used) / max(tokens, 1))
    print(
        f"{peer.name:18} {clients:3} clients {result.rates[-1]:8.1f} tok/s "
        f"{result.cpu[-1]:7.2f} CPU ms a token",
        file=sys.stderr,
        flush=True,
    )


async def round_of(peer: Peer, clients: int, load: Load, result: Result, *, number: int) -> int:
    """Returns the tokens generated."""

    async def client(which: int) -> int:
        tokens = 0
        for request in range(load.requests):
            subject = SUBJECTS[(which + request * 7) % len(SUBJECTS)]
            serial = (number * 1000 + which) * 100 + request
            # What differs comes first: a prefix that is known already costs nothing.
            question = f"{serial:08d} is the number of a long story about {subject}. Write it."
            try:
                sample = await ask(peer, f"{question} {load.filler}", load)
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


async def ask(peer: Peer, question: str, load: Load) -> Sample:
    """One streamed request over a raw connection: the load generator must cost little."""
    body: dict[str, Any] = {
        "model": "model",
        "messages": [{"role": "user", "content": question}],
        "max_tokens": load.max_tokens,
        "stream": True,
        **load.sampling,
    }
    if peer.reports_usage:
        body["stream_options"] = {"include_usage": True}
    data = json.dumps(body).encode()
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
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


def cpu_seconds(process: int) -> float:
    """Processor time a process has used, user and system."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
