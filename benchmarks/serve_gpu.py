"""What the server does with GPU memory, on an 8B-shaped model of random weights (random_gguf.py).

1. The naive loop (naive_loop.py), all layers on the GPU: what a server has to beat.
2. `--gpu-layers auto`, which must choose all.
3. Ours and llama-server at one client with 0, 10 and 20 layers.
4. `--vram 4`: how many layers auto chooses, and how much GPU memory it takes with all slots busy
   and the KV cache full. That is the machine's use less what was used before, so nothing else may
   use the GPU meanwhile.

    python benchmarks/serve_gpu.py vocabulary.gguf --llama-server PATH --json result.json

`vocabulary.gguf` is any GGUF with SmolLM2's tokenizer. What has been measured is written to the
JSON file after each step. `--shape tiny` tries all of it in a minute, without a GPU too. Many
clients, other peers and sampling on a GPU are serve_throughput.py's.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import subprocess
import sys
import threading
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

from random_gguf import SHAPES, write
from serve_load import Load, Result, measure_round, round_of
from serve_peers import Programs, Setting, all_running, gpu_memory_mib, others, ours

HERE = Path(__file__).resolve().parent
CONTEXT = 16384


class Report:
    """What has been measured so far, on disk after each step."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._started = time.monotonic()
        self.values: dict[str, Any] = {}

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._started

    def add(self, name: str, value: Any) -> None:
        self.values[name] = value
        self._path.write_text(json.dumps(self.values, indent=1))
        print(f"[{self.seconds:5.0f} s] {name}: {json.dumps(value)}", flush=True)


class MemoryWatch:
    """The most GPU memory in use while the block runs, less what was in use before."""

    def __init__(self) -> None:
        self._before = gpu_memory_mib()
        self.most = 0
        self._ended = threading.Event()

    def __enter__(self) -> MemoryWatch:
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while True:
            self.most = max(self.most, gpu_memory_mib() - self._before)
            if self._ended.wait(0.3):
                return


def chosen_layers(log: Path) -> dict[str, Any]:
    """What auto said: layers, of how many, and the reason."""
    found = re.search(r"GPU layers: (\d+) \((.*)\)", log.read_text())
    return {"layers": int(found[1]), "reason": found[2]} if found else {"layers": None}


def naive(arguments: argparse.Namespace) -> Any:
    done = subprocess.run(
        [sys.executable, str(HERE / "naive_loop.py"), str(arguments.model), "--gpu-layers", "999",
         "--threads", str(arguments.threads), "--max-tokens", str(arguments.max_tokens),
         "--clients", *map(str, arguments.clients)],
        capture_output=True, text=True,
    )  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else done.stderr[-500:]


def setting(arguments: Namespace, layers: str, *, ctx: int = CONTEXT, slots: int = 32) -> Setting:
    return Setting(threads=arguments.threads, ctx=ctx, slots=slots, gpu_layers=layers)


def run_auto(arguments: Namespace, report: Report) -> None:
    peer = ours(arguments.model, setting(arguments, "auto"))
    with all_running([peer], arguments.work):
        chosen = chosen_layers(arguments.work / "tuneserve.log")
    report.add("auto", {**chosen, "GPU MiB": peer.memory})


def run_some_layers(arguments: Namespace, report: Report) -> None:
    """Ours and llama-server in turn, one client."""
    programs = Programs(llama_server=arguments.llama_server)
    load = Load(1, 48)
    for layers in arguments.layers:
        chosen = setting(arguments, str(layers))
        peers = [ours(arguments.model, chosen)]
        peers += others(arguments.model, chosen, programs, arguments.work)
        results = {peer.name: Result() for peer in peers}
        with all_running(peers, arguments.work) as processes:
            for number in range(3):
                for peer in peers:
                    if peer.name in processes:
                        # The first round is what the model's loading is finished in.
                        result = results[peer.name] if number else Result()
                        measure_round(peer, processes[peer.name], 1, load, result, number=number)
        figures = {
            peer.name: {**results[peer.name].figures(), "GPU MiB": peer.memory}
            for peer in peers
            if peer.name in processes
        }
        report.add(f"{layers} layers", figures)


def run_capped(arguments: Namespace, report: Report) -> None:
    """The KV cache of 8,192 tokens is filled by eight clients with about a thousand each."""
    peer = ours(
        arguments.model,
        setting(arguments, "auto", ctx=8192, slots=8),
        "--vram",
        str(arguments.limit_gib),
    )
    with MemoryWatch() as watch, all_running([peer], arguments.work):
        chosen = chosen_layers(arguments.work / "tuneserve.log")
        result = Result()
        load = Load(1, 32, filler="word " * 900)
        asyncio.run(round_of(peer, 8, load, result, number=1))
    report.add(
        f"at most {arguments.limit_gib} GiB",
        {
            **chosen,
            "most MiB in use": watch.most,
            "inside": watch.most <= 1024 * arguments.limit_gib,
            "failures": result.failures,
            "tokens_per_second": result.figures()["tokens_per_second"],
        },
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("vocabulary", type=Path, help="a GGUF with SmolLM2's tokenizer")
    parser.add_argument("--shape", choices=sorted(SHAPES), default="8b")
    parser.add_argument("--llama-server", type=Path)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--layers", type=int, nargs="+", default=[0, 10, 20])
    parser.add_argument("--limit-gib", type=float, default=4.0)
    parser.add_argument("--threads", type=int, default=16)
    parser.add_argument("--max-tokens", type=int, default=192)
    parser.add_argument("--work", type=Path, default=Path("/tmp/serve_gpu"))
    parser.add_argument("--json", type=Path, default=Path("serve_gpu.json"))
    parser.add_argument(
        "--steps", nargs="+", default=["naive", "capped", "auto", "some"],
        choices=["naive", "capped", "auto", "some"],
    )  # fmt: skip
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    arguments.model = arguments.work / f"random-{arguments.shape}.gguf"
    report = Report(arguments.json)
    write(arguments.vocabulary, arguments.model, SHAPES[arguments.shape])
    size = round(arguments.model.stat().st_size / 2**30, 2)
    report.add("model", {"GiB": size, "seconds to write": round(report.seconds, 1)})
    if "naive" in arguments.steps:
        report.add("naive loop, tok/s", naive(arguments))
    if "capped" in arguments.steps:
        run_capped(arguments, report)
    if "auto" in arguments.steps:
        run_auto(arguments, report)
    if "some" in arguments.steps:
        run_some_layers(arguments, report)
    report.add("seconds", round(report.seconds))
    print(json.dumps(report.values))
    return 0


if __name__ == "__main__":
    sys.exit(main())
