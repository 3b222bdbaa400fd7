"""Many requests of all kinds against one server: nothing may be lost, mixed up, or left behind.

Requests run 16 at once, in parts of 100; of each hundred 20 are cut off by their clients at some
moment and 10 are wrong. The others are chats, texts, /v1/responses and /v1/messages with mixed
sampling (greedy to penalties, seeds, log-probabilities, stop strings, several choices), streamed or
not, half of the chats bounded by a schema, a grammar or a call. Beside them adapters are loaded,
replaced and unloaded through the admin API and the watched directory, and a batch is computed. The
context is so small that requests are preempted, and prefixes go to RAM and to disk.

It fails unless each request has exactly one answer, its own; the log has each request once, and
nothing of status 500; between the second and the last third of the parts neither memory grows nor
descriptors and threads; and at the end every slot, cell and adapter is free, and SIGTERM ends the
server while it streams. Then a server with one slot is asked the same questions twice, greedy and
with seeds, in another order: the answers must be the same.

    python benchmarks/serve_soak.py model.gguf --requests 3000

Exit code 1 if anything of this fails; the last line is JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from soak_neighbours import (
    ADMIN_KEY,
    LOADED,
    MOST_ADAPTERS,
    WATCHED,
    Adapters,
    batch_of,
    check_batch,
    write_adapter,
)
from soak_requests import KINDS, SAMPLINGS, Requests, answer_of, check, leave, malformed, too_long

CONTEXT, SLOTS, CLIENTS, PART, BATCH_LINES = 2048, 8, 16, 100, 6
MEMORY_NOISE_MIB = 8.0
REPEATABLE = ("--ctx", "4096", "--slots", "1", "--prefix-share", "0", "--prefix-ram", "0")
"""Options with which the same request has the same answer (docs/serving.md, Seeds)."""
FAULTS = (AssertionError, httpx.HTTPError, ValueError, KeyError, TypeError, OSError)


@dataclass
class Reading:
    """What the server holds while nothing runs."""

    memory_mib: float
    descriptors: int
    threads: int


@dataclass
class Server:
    """A server of ours as a process; `log` has a JSON object for each request."""

    process: subprocess.Popen[bytes]
    url: str
    log: Path

    def read(self) -> Reading:
        proc = Path(f"/proc/{self.process.pid}")
        resident = re.search(r"VmRSS:\s+(\d+)", (proc / "status").read_text())
        assert resident
        return Reading(
            int(resident[1]) / 1024,
            len([*(proc / "fd").iterdir()]),
            len([*(proc / "task").iterdir()]),
        )


@contextmanager
def served(model: Path, log: Path, *options: str) -> Iterator[Server]:
    command = [
        sys.executable, "-m", "tuneserve", "serve", str(model), "--name", "base", "--port", "0",
        "--log", "json", "--queue-seconds", "900", *options,
    ]  # fmt: skip
    with log.open("w") as file:
        process = subprocess.Popen(command, stderr=file)
    try:
        yield Server(process, _url(process, log), log)
    finally:
        process.kill()
        process.wait()


def _url(process: subprocess.Popen[bytes], log: Path) -> str:
    while process.poll() is None:
        if found := re.search(r"listening on (http\S+)", log.read_text()):
            return found.group(1)
        time.sleep(0.1)
    sys.exit(f"the server did not start:\n{log.read_text()}")


@dataclass
class Soak:
    """The requests, and what became of them."""

    server: Server
    adapters: Adapters
    seed: int
    outcomes: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    readings: list[Reading] = field(default_factory=list)
    sent: int = 0

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        passing = [(name, True) for name in (*LOADED, *WATCHED)]
        models = [("base", False), ("base", False), ("fixed", False), *passing]
        self._requests = Requests(self._random, models, CONTEXT)

    async def part(self, count: int) -> None:
        """So many requests, then nothing runs any more, and what the server holds is read."""
        first, self.sent = self.sent, self.sent + count
        numbers = iter(range(first, first + count))
        async with self._client() as http:
            changing = asyncio.create_task(self._noted("adapters", self.adapters.run(http)))
            batch = await batch_of(http, BATCH_LINES, self._random)
            await asyncio.gather(*(self._ask(http, numbers) for _ in range(CLIENTS)))
            changing.cancel()
            await asyncio.wait([changing])
            await self._noted("batch", check_batch(http, batch, BATCH_LINES))
            await self._all_free(http)
        await asyncio.sleep(0.5)
        self.readings.append(self.server.read())
        print(f"{self.sent:6} requests, {self.readings[-1]}", file=sys.stderr, flush=True)

    def _client(self) -> httpx.AsyncClient:
        limits = httpx.Limits(max_connections=CLIENTS + 4)
        return httpx.AsyncClient(base_url=self.server.url, timeout=900, limits=limits)

    async def _ask(self, http: httpx.AsyncClient, numbers: Iterator[int]) -> None:
        for number in numbers:
            kind = self._random.choices([*KINDS], [*KINDS.values()])[0]
            await self._noted(f"request {number} ({kind})", self._one(http, kind, number))
            self.outcomes[kind] += 1

    async def _noted(self, what: str, work: Coroutine[Any, Any, None]) -> None:
        """Do it; a fault is a problem, and the soak goes on."""
        try:
            await work
        except FAULTS as error:
            self.problems.append(f"{what}: {type(error).__name__} {error}")

    async def _one(self, http: httpx.AsyncClient, kind: str, number: int) -> None:
        if kind == "malformed":
            await malformed(http, self._random)
            return
        asked = self._requests.make("chat" if kind == "cut_off" else kind, number)
        if kind == "cut_off":
            asked.body["max_tokens"] = 500
            await leave(self.server.url, asked, self._random)
        elif kind == "too_long":
            await too_long(http, asked)
        else:
            status, came = await answer_of(http, asked)
            check(asked, status, came)
            if "id" in asked.body:
                self._requests.keep(asked.body)

    async def _all_free(self, http: httpx.AsyncClient) -> None:
        """Cancelled requests end within a step; then nothing runs or waits."""
        for _ in range(300):
            figures = await metrics(http)
            if figures["running"] == figures["waiting"] == 0:
                return
            await asyncio.sleep(0.1)
        self.problems.append(f"slots still taken: {figures}")

    async def check_end(self) -> None:
        """Every cell, slot and adapter can be had again."""
        async with self._client() as http:
            await self.adapters.check_all_go(http, others=1)
            # All cells but a few.
            body = {"prompt": [1000] * (CONTEXT - 8), "max_tokens": 4}
            whole = await http.post("/v1/completions", json=body)
            assert whole.status_code == 200, whole.text
            streams = [self._hold(http) for _ in range(SLOTS)]
            running = await asyncio.gather(*streams)
            assert max(running) == SLOTS, f"{max(running)} of {SLOTS} slots run"

    async def _hold(self, http: httpx.AsyncClient) -> float:
        """How many requests run while this one streams, at most."""
        body = {"prompt": "Count", "max_tokens": 40, "stream": True, "ignore_eos": True}
        most = 0.0
        async with http.stream("POST", "/v1/completions", json=body) as answer:
            async for line in answer.aiter_lines():
                if line.startswith("data: {"):
                    most = max(most, (await metrics(http))["running"])
        return most

    async def check_terminated(self) -> float:
        """SIGTERM while all slots stream: every stream ends whole. Returns seconds to the end."""
        body = {"prompt": "Count", "max_tokens": 100, "stream": True, "ignore_eos": True}

        async def stream(http: httpx.AsyncClient, first: asyncio.Event) -> bool:
            async with http.stream("POST", "/v1/completions", json=body) as answer:
                lines = []
                async for line in answer.aiter_lines():
                    lines.append(line)
                    first.set()
            return "data: [DONE]" in lines

        async with self._client() as http:
            events = [asyncio.Event() for _ in range(SLOTS)]
            streams = [asyncio.create_task(stream(http, event)) for event in events]
            await asyncio.gather(*(event.wait() for event in events))
            self.server.process.terminate()
            started = time.monotonic()
            whole = await asyncio.gather(*streams)
        status = await asyncio.to_thread(self.server.process.wait, 35)
        assert all(whole), "a stream broke off at SIGTERM"
        assert status == 0, f"status {status} after SIGTERM"
        return time.monotonic() - started

    def check_readings(self) -> dict[str, float]:
        """Of the second and the last third of the parts."""
        third = len(self.readings) // 3
        if not third:
            return {}
        second, last = self.readings[third : 2 * third], self.readings[2 * third :]
        growth = statistics.median(r.memory_mib for r in last) - statistics.median(
            r.memory_mib for r in second
        )
        noise = max(MEMORY_NOISE_MIB, 2 * statistics.pstdev(r.memory_mib for r in second))
        if growth > noise:
            self.problems.append(f"memory grew by {growth:.1f} MiB, noise is {noise:.1f}")
        for what in ("descriptors", "threads"):
            before, after = (max(getattr(r, what) for r in part) for part in (second, last))
            if after > before:
                self.problems.append(f"{what}: {after} instead of {before}")
        return {"memory_mib": round(self.readings[-1].memory_mib), "growth_mib": round(growth, 1)}

    def check_log(self) -> Counter[int]:
        """How often each status was logged; every request once, and no defect."""
        text = self.server.log.read_text()
        lines = []
        for line in text.splitlines():
            try:
                entry = json.loads(line)
            except ValueError:
                self.problems.append(f"a line of the log is not JSON: {line[:500]}")
            else:
                if "message" not in entry:
                    lines.append(entry)
        identities = Counter(line["request_id"] for line in lines)
        if len(identities) < len(lines):
            self.problems.append("the log has a request twice")
        statuses = Counter(line["status"] for line in lines)
        if statuses[500] or "Traceback" in text:
            self.problems.append(f"{statuses[500]} of status 500; see {self.server.log}")
        return statuses


async def metrics(http: httpx.AsyncClient) -> dict[str, float]:
    text = (await http.get("/metrics")).text
    found = re.findall(r"(?m)^tuneserve_(\w+) (\S+)$", text)
    return {name: float(value) for name, value in found}


def options_of(folder: Path, model: Path) -> list[str]:
    """Of the soaked server; makes the files that they name."""
    write_adapter(folder / "fixed.gguf", model, seed=1000)
    (folder / "keys").write_text(f"{ADMIN_KEY}\n")
    return [
        "--ctx", str(CONTEXT), "--slots", str(SLOTS), "--lora", f"fixed={folder}/fixed.gguf",
        "--adapter-dir", str(folder / "adapters"), "--admin-key-file", str(folder / "keys"),
        "--max-adapters", str(MOST_ADAPTERS), "--batch-dir", str(folder / "batches"),
        "--prefix-ram", "0.01", "--prefix-disk", "32M", "--prefix-directory",
        str(folder / "prefixes"), "--response-store", "1",
    ]  # fmt: skip


async def repeated(server: Server, questions: int, seed: int) -> list[str]:
    """Ask each question twice, in two orders, several at a time; returns those whose answers
    differ."""
    chance = random.Random(seed)
    asked = []
    for number in range(questions):
        sampling = dict(chance.choice(SAMPLINGS))
        if sampling.get("temperature") != 0:
            sampling["seed"] = number
        text = f"Question {number}: {'word ' * chance.randrange(60)}what is {number}?"
        message = {"role": "user", "content": text}
        asked.append({"messages": [message], "max_tokens": 32, **sampling})
    answers: dict[int, set[str]] = {}
    async with httpx.AsyncClient(base_url=server.url, timeout=900) as http:
        places = asyncio.Semaphore(4)

        async def ask(number: int) -> None:
            async with places:
                answer = await http.post("/v1/chat/completions", json=asked[number])
            assert answer.status_code == 200, answer.text
            text = answer.json()["choices"][0]["message"]["content"]
            answers.setdefault(number, set()).add(text)

        for _ in range(2):
            order = chance.sample(range(questions), questions)
            await asyncio.gather(*(ask(number) for number in order))
    return [f"{asked[n]}: {texts}" for n, texts in answers.items() if len(texts) > 1]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--requests", type=int, default=3000)
    parser.add_argument("--repeated", type=int, default=100, help="questions asked twice")
    parser.add_argument("--threads", default="0")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--log", type=Path, default=Path("/tmp/serve_soak.log"))
    arguments = parser.parse_args()
    threads = ("--threads", arguments.threads)
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        adapters = Adapters(folder / "adapters", arguments.model, random.Random(arguments.seed))
        options = options_of(folder, arguments.model)
        with served(arguments.model, arguments.log, *options, *threads) as server:
            soak = Soak(server, adapters, arguments.seed)
            while soak.sent < arguments.requests:
                asyncio.run(soak.part(min(PART, arguments.requests - soak.sent)))
            result = finish(soak)
    log = arguments.log.with_suffix(".one-slot.log")
    with served(arguments.model, log, *REPEATABLE, *threads) as server:
        different = asyncio.run(repeated(server, arguments.repeated, arguments.seed))
    soak.problems += [f"another answer the second time: {one}" for one in different]
    for problem in soak.problems[:20]:
        print(problem[:1000])
    result |= {"different": len(different), "problems": len(soak.problems)}
    print(json.dumps(result | {"seconds": round(time.monotonic() - started)}))
    return 1 if soak.problems else 0


def finish(soak: Soak) -> dict[str, Any]:
    """The checks at the end of the soaked server, and what was counted."""
    result: dict[str, Any] = {"outcomes": soak.outcomes, "adapters": soak.adapters.done}
    try:
        result["preemptions"] = asyncio.run(_preemptions(soak.server.url))
        asyncio.run(soak.check_end())
        result["sigterm_seconds"] = round(asyncio.run(soak.check_terminated()), 2)
    except FAULTS as error:
        soak.problems.append(f"at the end: {type(error).__name__} {error}")
    return result | soak.check_readings() | {"statuses": soak.check_log()}


async def _preemptions(url: str) -> float:
    async with httpx.AsyncClient(base_url=url) as http:
        return (await metrics(http))["preemptions_total"]


if __name__ == "__main__":
    sys.exit(main())
