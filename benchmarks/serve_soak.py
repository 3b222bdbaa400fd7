"""Many requests of all kinds against one server: nothing may be lost, mixed up, or left behind.

Requests run 16 at once. Of every ten, about three are cut off by the client at a random moment,
one is malformed and one is too long for the context; the others carry a code of their own which a
JSON schema makes the answer repeat, so that an answer that reached the wrong client would show.
At the end every slot must be free, the KV cache must hold no running request, and the server's
memory must be what it was after the first tenth, within 5 per cent; the RAM for beginnings of
finished requests is set so small that it is full by then.

    python benchmarks/serve_soak.py model.gguf --requests 3000

Exit code 1 if anything of this fails; the last line is JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx

CONTEXT = 4096


class Soak:
    """The requests, and what became of them."""

    def __init__(self, url: str, process: int, total: int, seed: int) -> None:
        self._url = url
        self._process = process
        self._total = total
        self._random = random.Random(seed)
        self.outcomes: Counter[str] = Counter()
        self.problems: list[str] = []
        self.memory: list[float] = []

    async def run(self, clients: int) -> None:
        numbers = iter(range(self._total))
        async with httpx.AsyncClient(base_url=self._url, timeout=1200) as http:
            await asyncio.gather(*(self._client(http, numbers) for _ in range(clients)))
            await self._check_all_free(http)

    async def _client(self, http: httpx.AsyncClient, numbers: Any) -> None:
        for number in numbers:
            kind = self._random.choices(
                ["whole", "streamed", "cut off", "malformed", "too long"], [25, 25, 30, 10, 10]
            )[0]
            try:
                await getattr(self, "_" + kind.replace(" ", "_"))(http, number)
                self.outcomes[kind] += 1
            except (AssertionError, httpx.HTTPError, ValueError, KeyError) as error:
                self.problems.append(f"request {number} ({kind}): {type(error).__name__} {error}")
            if number % max(1, self._total // 20) == 0:
                self.memory.append(resident_mib(self._process))
                print(f"{number:6} requests, {self.memory[-1]:.0f} MiB", file=sys.stderr)

    def _body(self, number: int, **fields: Any) -> tuple[str, dict[str, Any]]:
        """(the code the answer must repeat, the request)."""
        code = f"{number:05d}-{self._random.randrange(10**8):08d}"
        schema = {
            "type": "object",
            "properties": {"code": {"const": code}, "word": {"type": "string", "maxLength": 40}},
            "required": ["code", "word"],
        }
        filler = "word " * self._random.randrange(1, 200)
        body = {
            "messages": [{"role": "user", "content": f"Repeat {code}. {filler}"}],
            "temperature": 1.0,
            "max_tokens": 100,
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "code", "schema": schema},
            },
            **fields,
        }
        return code, body

    async def _whole(self, http: httpx.AsyncClient, number: int) -> None:
        code, body = self._body(number)
        answer = await http.post("/v1/chat/completions", json=body)
        assert answer.status_code == 200, answer.text
        self._check_code(answer.json()["choices"][0]["message"]["content"], code)

    async def _streamed(self, http: httpx.AsyncClient, number: int) -> None:
        code, body = self._body(number, stream=True)
        text, done = "", False
        async with http.stream("POST", "/v1/chat/completions", json=body) as answer:
            assert answer.status_code == 200
            async for line in answer.aiter_lines():
                done |= line == "data: [DONE]"
                if line.startswith("data: {"):
                    for choice in json.loads(line[6:])["choices"]:
                        text += choice["delta"].get("content") or ""
        assert done, "the stream broke off"
        self._check_code(text, code)

    def _check_code(self, text: str, code: str) -> None:
        found = re.search(r"\d{5}-\d{8}", text)
        assert found, f"no code in {text!r}"
        assert found.group() == code, f"another request's answer: {found.group()} for {code}"

    async def _cut_off(self, http: httpx.AsyncClient, number: int) -> None:
        _, body = self._body(number, stream=self._random.random() < 0.5, max_tokens=1000)
        del body["response_format"]
        data = json.dumps(body).encode()
        host, _, port = self._url.removeprefix("http://").partition(":")
        _, writer = await asyncio.open_connection(host, int(port))
        head = (
            "POST /v1/chat/completions HTTP/1.1\r\nHost: soak\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
        )
        # Sometimes the client is gone before it has sent all.
        sent = head.encode() + data
        writer.write(sent if self._random.random() < 0.9 else sent[: len(sent) // 2])
        await writer.drain()
        await asyncio.sleep(self._random.expovariate(1.0))
        writer.close()

    async def _malformed(self, http: httpx.AsyncClient, number: int) -> None:
        content, headers = self._random.choice(
            [
                (b"{", {"Content-Type": "application/json"}),
                (b'{"messages": 3}', {"Content-Type": "application/json"}),
                (b'{"messages": [{"role": "user", "content": "x"}], "frob": 1}', {}),
                (b"\xff\xfe", {"Content-Type": "application/json"}),
            ]
        )
        answer = await http.post("/v1/chat/completions", content=content, headers=headers)
        assert answer.status_code == 400, answer.text
        assert answer.json()["error"]["type"] == "invalid_request_error"

    async def _too_long(self, http: httpx.AsyncClient, number: int) -> None:
        _, body = self._body(number, messages=[{"role": "user", "content": "word " * CONTEXT}])
        answer = await http.post("/v1/chat/completions", json=body)
        assert answer.status_code == 400, answer.text
        assert answer.json()["error"]["code"] == "context_length_exceeded"

    async def _check_all_free(self, http: httpx.AsyncClient) -> None:
        """Cancelled requests end within a step; then nothing runs or waits."""
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            text = (await http.get("/metrics")).text
            figures = dict(re.findall(r"(?m)^tuneserve_(running|waiting) (\S+)$", text))
            if set(figures.values()) == {"0.0"}:
                return
            await asyncio.sleep(0.2)
        self.problems.append(f"slots still taken: {figures}")

    def check_memory(self) -> float:
        """Growth from after the first tenth to the end, as a share."""
        early = self.memory[max(1, len(self.memory) // 10)]
        growth = resident_mib(self._process) / early - 1
        if growth > 0.05:
            self.problems.append(f"memory grew by {100 * growth:.1f} %")
        return growth


def resident_mib(process: int) -> float:
    status = Path(f"/proc/{process}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024  # type: ignore[index]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--requests", type=int, default=3000)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--threads", default="0")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--log", type=Path, default=Path("/tmp/serve_soak.log"))
    arguments = parser.parse_args()
    command = [
        sys.executable, "-m", "tuneserve", "serve", str(arguments.model), "--port", "0",
        "--ctx", str(CONTEXT), "--slots", "8", "--threads", arguments.threads, "--log", "off",
        "--prefix-ram", "0.1", "--queue-seconds", "900",
    ]  # fmt: skip
    with arguments.log.open("w") as log:
        process = subprocess.Popen(command, stderr=log)
    try:
        soak = Soak(wait_for_url(arguments.log), process.pid, arguments.requests, arguments.seed)
        started = time.monotonic()
        asyncio.run(soak.run(arguments.clients))
        seconds = time.monotonic() - started
        growth = soak.check_memory()
    finally:
        process.terminate()
        status = process.wait(60)
    if status != 0 or "Traceback" in arguments.log.read_text():
        soak.problems.append(f"the server ended with status {status}; see {arguments.log}")
    for problem in soak.problems[:20]:
        print(problem)
    print(f"{sum(soak.outcomes.values())} requests in {seconds:.0f} s: {dict(soak.outcomes)}")
    print(
        json.dumps(
            {
                "outcomes": soak.outcomes,
                "problems": len(soak.problems),
                "seconds": round(seconds),
                "memory_growth": round(growth, 4),
            }
        )
    )
    return 1 if soak.problems else 0


def wait_for_url(log: Path) -> str:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if found := re.search(r"listening on (http\S+)", log.read_text()):
            return found.group(1)
        time.sleep(0.1)
    sys.exit(f"the server did not start:\n{log.read_text()}")


if __name__ == "__main__":
    sys.exit(main())
