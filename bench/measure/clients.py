"""What clients get from the served model: time to first token and throughput, 1 to N at a time.

The server is the real one, started as its user would start it, and asked with the openai client
over streaming HTTP, with the sampling that a request has which says nothing. Every client sends one
request after another; all together are a round, and rounds are repeated for the deviation. End
tokens are forbidden, so that every answer has the same length.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, median, stdev
from typing import TYPE_CHECKING, Any

from tuneserve.bench.measure.journal import Journal
from tuneserve.bench.measure.speed import Rate
from tuneserve.bench.measure.values import SERVED
from tuneserve.bench.measure.work import Contender
from tuneserve.chat.template import Message, api_message
from tuneserve.chat.thinking import REASONING
from tuneserve.child import own_module
from tuneserve.console import progress
from tuneserve.errors import TuneserveError
from tuneserve.llama import LlamaModel, free_gpu_memory
from tuneserve.options import as_options, option_names
from tuneserve.settings import BenchSettings, Recipe, ServeSettings

if TYPE_CHECKING:
    from openai import OpenAI

SERVED_NAME = "model"  # in the API
ANSWER_TOKENS = 32
REQUESTS = 2  # of each client in a round
ROUNDS = 3
START_SECONDS = 600.0


@dataclass(frozen=True)
class Held:
    """Bytes of RAM that the server holds after a round: mean and deviation over the rounds."""

    mean: float
    deviation: float
    repetitions: int


@dataclass(frozen=True)
class Load:
    """`clients` at a time: generated tokens of all together per second (mean and deviation over
    the rounds), seconds to the first token, and the RAM that the server holds."""

    clients: int
    throughput: Rate
    first_token_median: float
    first_token_worst: float
    requests: int
    memory: Held | None = None  # a report of an older release has none


@dataclass(frozen=True)
class ServerStart:
    """Seconds from the command to the first request taken, and the memory (bytes) that the server
    needed at most in RAM, and took on the GPUs."""

    seconds: float
    memory: int
    gpu_memory: int


def measure_clients(
    contender: Contender, prompts: Sequence[Sequence[Message]], journal: Journal
) -> None:
    """Serve the model and measure every number of clients, if the journal does not hold them. They
    are compared with each other, so all are of one sitting: one that was cut off begins anew."""
    levels = contender.bench.clients
    if not levels or journal.has(SERVED, contender.name):
        return
    import openai

    bias = _no_end(contender.path)
    rounds = (ROUNDS + 1) * len(levels)
    measured: list[Load] = []
    with (
        served(
            contender.path, _settings(contender.serve, contender.bench), contender.lora
        ) as server,
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", timeout=START_SECONDS) as client,
        progress(f"{contender.name}: clients", rounds, unit="rounds") as advance,
    ):
        for count in levels:
            # The first round warms up: threads, connections, the server's prefix cache.
            samples, held = [], []
            for which in range(ROUNDS + 1):
                requests = REQUESTS if which else 1
                samples.append(_round(client, prompts, count, requests, bias))
                held.append(_memory(server.process, "VmRSS"))
                advance(1)
            measured.append(_summed_up(count, samples[1:], held[1:]))
        start = ServerStart(server.seconds, _memory(server.process, "VmHWM"), server.gpu_memory)
    value = {"start": asdict(start), "load": [asdict(load) for load in measured]}
    journal.add(SERVED, contender.name, "", value)


def read_served(journal: Journal, name: str) -> tuple[list[Load], ServerStart]:
    """Every number of clients, and the server's start."""
    row = journal.get(SERVED, name)
    return [_read_load(load) for load in row["load"]], ServerStart(**row["start"])


def _read_load(row: Mapping[str, Any]) -> Load:
    measured = {"throughput": Rate(**row["throughput"]), "memory": Held(**row["memory"])}
    return Load(**{**row, **measured})


@dataclass(frozen=True)
class Served:
    """A running server; `seconds` is what it took to start, `gpu_memory` what it took in bytes."""

    process: subprocess.Popen[bytes]
    url: str
    seconds: float
    gpu_memory: int


@contextmanager
def served(path: Path, settings: ServeSettings, lora: Path | None = None) -> Iterator[Served]:
    """`tuneserve serve` on any free port, ready; stopped when the block is left, or this process
    ends. With `lora` the adapter has the model's name."""
    name = f"{SERVED_NAME}-base" if lora else SERVED_NAME
    command = own_module("tuneserve", "serve", str(path), "--name", name)
    command += ["--lora", f"{SERVED_NAME}={lora}"] if lora else []
    command += as_options(Recipe(serve=settings), option_names(["serve"]))
    free = sum(free_gpu_memory())
    with tempfile.TemporaryFile() as log:
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        try:
            url = _wait_until_ready(process, log)
            seconds = time.perf_counter() - started
            yield Served(process, url, seconds, max(0, free - sum(free_gpu_memory())))
        finally:
            process.terminate()
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait_until_ready(process: subprocess.Popen[bytes], log: Any) -> str:
    """The URL that the server says it listens on."""
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        found = re.search(r"listening on (\S+)", _written(log))
        if found:
            return found.group(1)
        time.sleep(0.05)
    raise TuneserveError("the server did not start", problems=_written(log).splitlines()[-5:])


def _written(log: Any) -> str:
    return os.pread(log.fileno(), 1 << 20, 0).decode("utf-8", "replace")


def _settings(serve: ServeSettings, bench: BenchSettings) -> ServeSettings:
    """As the user serves it, but here, open, and with a slot and room for every client."""
    most = max(bench.clients)
    return serve.model_copy(
        update={
            "host": "127.0.0.1",
            "port": 0,
            "slots": max(serve.slots, most),
            "ctx": max(serve.ctx, most * bench.ctx),
            "api_key_file": None,
            "tls_cert": None,
            "tls_key": None,
            "log": "off",
        }
    )


def _no_end(path: Path) -> dict[str, int]:
    """The logit bias that forbids every end token."""
    with LlamaModel(path, vocab_only=True) as model:
        return {str(token): -100 for token in range(model.n_vocab) if model.is_end(token)}


def _round(
    client: OpenAI,
    prompts: Sequence[Sequence[Message]],
    clients: int,
    requests: int,
    bias: dict[str, int],
) -> tuple[float, list[tuple[float, int]]]:
    """The seconds that a round of so many requests of each client takes, and of each request what
    `_ask` returns."""

    def ask_in_turn(which: int) -> list[tuple[float, int]]:
        places = range(which * requests, (which + 1) * requests)
        return [_ask(client, prompts[place % len(prompts)], bias) for place in places]

    started = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        answers = [answer for found in pool.map(ask_in_turn, range(clients)) for answer in found]
    return time.perf_counter() - started, answers


def _ask(client: OpenAI, prompt: Sequence[Message], bias: dict[str, int]) -> tuple[float, int]:
    """Seconds to the first token of the answer, and its tokens."""
    messages: Any = [api_message(message) for message in prompt]
    started = time.perf_counter()
    stream = client.chat.completions.create(
        model=SERVED_NAME,
        messages=messages,
        max_tokens=ANSWER_TOKENS,
        logit_bias=bias,
        stream=True,
        stream_options={"include_usage": True},
    )
    first: float | None = None
    tokens = 0
    for chunk in stream:
        if first is None and chunk.choices and _text_of(chunk.choices[0].delta):
            first = time.perf_counter() - started
        if chunk.usage is not None:
            tokens = chunk.usage.completion_tokens
    if first is None:
        raise TuneserveError(
            "the server answered a prompt with no text", where=str(client.base_url)
        )
    return first, tokens


def _text_of(delta: Any) -> str:
    """What a piece of an answer adds to it, be it a thought."""
    return getattr(delta, REASONING, None) or delta.content or ""


def _summed_up(
    clients: int, rounds: Sequence[tuple[float, list[tuple[float, int]]]], held: Sequence[int]
) -> Load:
    tokens = [sum(count for _, count in answers) for _, answers in rounds]
    rates = [count / seconds for count, (seconds, _) in zip(tokens, rounds, strict=True)]
    first = sorted(seconds for _, answers in rounds for seconds, _ in answers)
    return Load(
        clients=clients,
        throughput=Rate(fmean(rates), stdev(rates), tokens[0], len(rates)),
        first_token_median=median(first),
        first_token_worst=first[-1],
        requests=len(first),
        memory=Held(fmean(held), stdev(held), len(held)),
    )


def _memory(process: subprocess.Popen[bytes], field: str) -> int:
    """Bytes of RAM that the process holds (VmRSS), or held at most (VmHWM)."""
    status = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii")
    found = re.search(rf"{field}:\s+(\d+) kB", status)
    return 1024 * int(found.group(1)) if found else 0
