"""What goes on beside the soak test's clients: adapters come and go, a batch is computed."""

from __future__ import annotations

import asyncio
import json
import random
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import gguf
import httpx
import numpy as np

from tuneserve.gguf.reader import GGUFFile

ADMIN_KEY = "soak-admin"
MOST_ADAPTERS = 12
VARIANTS = MOST_ADAPTERS
"""Different adapter files there are."""
LOADED = ("asked-a", "asked-b")
"""Names that the admin API loads, replaces and unloads."""
WATCHED = ("dropped-a", "dropped-b")
"""Names of files that come to the adapter directory, change and go."""
Json = dict[str, Any]


def write_adapter(path: Path, model: Path, seed: int, rank: int = 2) -> None:
    """A LoRA of random weights on the first block's output of the feed-forward layers."""
    base = GGUFFile(model)
    name = "blk.0.ffn_down.weight"
    rows, columns = base.tensors[name].shape
    chance = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(str(path), base.architecture)
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", 16.0)
    writer.add_tensor(f"{name}.lora_a", chance.normal(0, 0.1, (rank, columns)).astype(np.float32))
    writer.add_tensor(f"{name}.lora_b", chance.normal(0, 0.1, (rows, rank)).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


class Adapters:
    """Loads, replaces and unloads adapters in two ways. `folder` is the watched directory; files
    for the admin API lie in a folder below, which is not watched."""

    def __init__(self, folder: Path, model: Path, chance: random.Random) -> None:
        self._folder = folder
        self._files = folder / "files"
        self._random = chance
        self.done: Counter[str] = Counter()
        self._files.mkdir(parents=True)
        for seed in range(VARIANTS):
            write_adapter(self._files / f"{seed}.gguf", model, seed)

    async def run(self, http: httpx.AsyncClient) -> None:
        """Until cancelled."""
        while True:
            await (self._ask(http) if self._random.random() < 0.6 else self._touch())
            await asyncio.sleep(self._random.expovariate(4.0))

    async def _ask(self, http: httpx.AsyncClient) -> None:
        name = self._random.choice(LOADED)
        if self._random.random() < 0.2:
            await self.unload(http, name)
            return
        file = f"files/{self._random.randrange(VARIANTS)}.gguf"
        status = await self.load(http, name, file, load_inplace=self._random.random() < 0.7)
        self.done[f"load {status}"] += 1

    async def load(self, http: httpx.AsyncClient, name: str, file: str, **fields: bool) -> int:
        body = {"lora_name": name, "lora_path": file, **fields}
        answer = await self._post(http, "/v1/load_lora_adapter", body)
        # The name may be taken, and replaced ones that still answer may take all places.
        known = answer.status_code == 200 or (
            answer.status_code == 400 and ("taken" in answer.text or "already" in answer.text)
        )
        assert known, answer.text
        return answer.status_code

    async def unload(self, http: httpx.AsyncClient, name: str) -> None:
        answer = await self._post(http, "/v1/unload_lora_adapter", {"lora_name": name})
        assert answer.status_code in (200, 404), answer.text
        self.done[f"unload {answer.status_code}"] += 1

    async def _post(self, http: httpx.AsyncClient, path: str, body: Json) -> httpx.Response:
        headers = {"Authorization": f"Bearer {ADMIN_KEY}"}
        return await http.post(path, json=body, headers=headers)

    async def _touch(self) -> None:
        """A file comes, at times slowly, or goes."""
        path = self._folder / f"{self._random.choice(WATCHED)}.gguf"
        source = self._files / f"{self._random.randrange(VARIANTS)}.gguf"
        kind = self._random.choices(["renamed", "copied", "damaged", "removed"], [3, 3, 1, 1])[0]
        self.done[kind] += 1
        if kind == "renamed":
            part = path.with_suffix(".part")
            shutil.copyfile(source, part)
            part.rename(path)
        elif kind == "copied":
            data = source.read_bytes()
            with path.open("wb") as file:
                file.write(data[: len(data) // 2])
                file.flush()
                await asyncio.sleep(0.1)
                file.write(data[len(data) // 2 :])
        elif kind == "damaged":
            path.write_bytes(source.read_bytes()[:-100])
        else:
            path.unlink(missing_ok=True)

    async def check_all_go(self, http: httpx.AsyncClient, others: int) -> None:
        """When all are unloaded, as many fit as are allowed beside `others`: nothing holds one."""
        for name in WATCHED:
            (self._folder / f"{name}.gguf").unlink(missing_ok=True)
        for name in LOADED:
            await self.unload(http, name)
        await _until(lambda: self._only(http, others), "adapters of removed files are served")
        names = [f"last-{number}" for number in range(MOST_ADAPTERS - others)]
        for number, name in enumerate(names):
            status = await self.load(http, name, f"files/{number}.gguf")
            assert status == 200, f"no place for adapter {number}: some are held"
        for name in names:
            await self.unload(http, name)

    async def _only(self, http: httpx.AsyncClient, others: int) -> bool:
        models = (await http.get("/v1/models")).json()["data"]
        return len(models) == 1 + others


async def _until(holds: Any, what: str, seconds: float = 30.0) -> None:
    for _ in range(int(seconds / 0.2)):
        if await holds():
            return
        await asyncio.sleep(0.2)
    raise AssertionError(what)


async def batch_of(http: httpx.AsyncClient, lines: int, chance: random.Random) -> str:
    """Upload a file of requests and start their batch; returns its id."""
    requests = []
    for number in range(lines):
        body = {
            "messages": [{"role": "user", "content": f"Say {number}."}],
            "max_tokens": chance.randrange(1, 30),
        }
        line = {"custom_id": f"line-{number}", "method": "POST", "url": "/v1/chat/completions"}
        requests.append(json.dumps({**line, "body": body}))
    uploaded = await http.post(
        "/v1/files",
        data={"purpose": "batch"},
        files={"file": ("soak.jsonl", "\n".join(requests).encode())},
    )
    assert uploaded.status_code == 200, uploaded.text
    made = await http.post(
        "/v1/batches",
        json={
            "input_file_id": uploaded.json()["id"],
            "endpoint": "/v1/chat/completions",
            "completion_window": "24h",
        },
    )
    assert made.status_code == 200, made.text
    return str(made.json()["id"])


async def check_batch(http: httpx.AsyncClient, batch: str, lines: int) -> None:
    """It ends, and every line has one answer; then its files are deleted."""
    told: Json = {}

    async def ended() -> bool:
        told.update((await http.get(f"/v1/batches/{batch}")).json())
        return bool(told["status"] == "completed")

    await _until(ended, f"a batch does not end: {told}", 60.0)
    content = (await http.get(f"/v1/files/{told['output_file_id']}/content")).text
    answers = [json.loads(line) for line in content.splitlines()]
    assert sorted(one["custom_id"] for one in answers) == sorted(f"line-{n}" for n in range(lines))
    assert all(one["response"]["status_code"] == 200 for one in answers), content
    for file in (told["input_file_id"], told["output_file_id"]):
        gone = await http.delete(f"/v1/files/{file}")
        assert gone.status_code == 200, gone.text
