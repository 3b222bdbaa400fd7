"""The server on a GPU: an 8B-shaped model, ours beside llama-server and a naive loop, in one run.

A random Q4_K_M model of a Llama-8B's shape is written first (random_gguf.py); then

1. the naive loop (naive_loop.py), all layers on the GPU;
2. ours with `--gpu-layers auto`, which must choose all, and llama-server, both loaded and measured
   in turn at 1, 8 and 32 clients: tokens/s and time to first token (serve_throughput.py);
3. both at one client with 0, 10 and 20 layers;
4. ours with `--vram 4`: how many layers auto chooses, and how much GPU memory it takes with all
   slots busy and the KV cache full. That is the machine's use less what was used before, so
   nothing else may use the GPU meanwhile.

    python benchmarks/serve_gpu.py vocabulary.gguf --llama-server PATH --json result.json

`vocabulary.gguf` is any GGUF with SmolLM2's tokenizer. What has been measured is written to the
JSON file after each step. `--shape tiny` tries all of it in a minute, without a GPU too.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import re
import subprocess
import sys
import threading
import time
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from random_gguf import SHAPES, write
from serve_throughput import Peer, Result, peers, round_of, show, started, wait_until_ready

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


def gpu_memory_mib() -> int:
    """Memory in use on all GPUs; 0 without one."""
    command = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return 0
    return sum(int(line) for line in done.stdout.split())


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


@contextlib.contextmanager
def all_running(servers: list[Peer], logs: Path) -> Iterator[dict[str, Peer]]:
    """Start one after the other; those that are ready, by name, each with the GPU memory it took
    (`peer.memory`). A peer that can't start is left out."""
    with contextlib.ExitStack() as stack:
        ready = {}
        for peer in servers:
            log = logs / f"{peer.name}.log"
            before = gpu_memory_mib()
            process = stack.enter_context(started(peer, log))
            try:
                wait_until_ready(peer, process, log)
            except SystemExit as error:
                if peer.name == "tuneserve":
                    raise
                print(f"left out: {error}", flush=True)
            else:
                peer.memory = gpu_memory_mib() - before
                ready[peer.name] = peer
        yield ready


def servers(arguments: argparse.Namespace, layers: str, *more: str) -> list[Peer]:
    """Ours and, where it is given, llama-server, with `layers` on the GPU."""
    found = peers(
        Namespace(
            model=arguments.model, threads=arguments.threads, ctx=CONTEXT, slots=32,
            gpu_layers=layers, cache_type="q8_0", llama_server=arguments.llama_server,
            stock=arguments.stock and layers == "auto",
        )
    )  # fmt: skip
    for peer in found:
        if peer.name == "tuneserve":
            peer.command += more
        else:
            # Theirs has no word for it; as many as there are is what auto must choose.
            peer.command = ["999" if part == "auto" else part for part in peer.command]
    return found


def measure_in_turn(
    ready: dict[str, Peer], clients: list[int], *, repeats: int, requests: int, max_tokens: int
) -> dict[str, Any]:
    """GPU memory, and tokens/s and TTFT at each number of clients, of each server."""
    results = {name: {count: Result() for count in clients} for name in ready}
    for peer in ready.values():
        asyncio.run(round_of(peer, 2, 1, 8, Result()))
    for _ in range(repeats):
        for count in clients:
            for peer in ready.values():
                result = results[peer.name][count]
                once = peer.name == "stock"
                if once and result.rates:
                    continue
                each = 1 if once else requests
                asyncio.run(round_of(peer, count, each, max_tokens, result))
    figures = {
        name: {str(count): result.figures() for count, result in by_count.items()}
        for name, by_count in results.items()
    }
    show(figures)
    return {name: {**figures[name], "GPU MiB": peer.memory} for name, peer in ready.items()}


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


def run_all_layers(arguments: argparse.Namespace, report: Report) -> None:
    with all_running(servers(arguments, "auto"), arguments.work) as ready:
        report.add("auto", chosen_layers(arguments.work / "tuneserve.log"))
        figures = measure_in_turn(
            ready, arguments.clients, repeats=3, requests=2, max_tokens=arguments.max_tokens
        )
    report.add("all layers", figures)


def run_some_layers(arguments: argparse.Namespace, report: Report) -> None:
    for layers in arguments.layers:
        with all_running(servers(arguments, str(layers)), arguments.work) as ready:
            figures = measure_in_turn(ready, [1], repeats=2, requests=1, max_tokens=48)
        report.add(f"{layers} layers", figures)


def run_capped(arguments: argparse.Namespace, report: Report) -> None:
    """The KV cache of 8,192 tokens is filled by eight clients with about a thousand each."""
    (ours,) = peers(
        Namespace(
            model=arguments.model, threads=arguments.threads, ctx=8192, slots=8,
            gpu_layers="auto", cache_type="q8_0", llama_server=None, stock=False,
        )
    )  # fmt: skip
    ours.command += ["--vram", str(arguments.limit_gib)]
    with MemoryWatch() as watch, all_running([ours], arguments.work) as ready:
        chosen = chosen_layers(arguments.work / "tuneserve.log")
        result = Result()
        asyncio.run(round_of(ready["tuneserve"], 8, 1, 32, result, filler="word " * 900))
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
    parser.add_argument("--stock", action="store_true", help="measure llama_cpp.server too")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--layers", type=int, nargs="+", default=[0, 10, 20])
    parser.add_argument("--limit-gib", type=float, default=4.0)
    parser.add_argument("--threads", type=int, default=16)
    parser.add_argument("--max-tokens", type=int, default=192)
    parser.add_argument("--work", type=Path, default=Path("/tmp/serve_gpu"))
    parser.add_argument("--json", type=Path, default=Path("serve_gpu.json"))
    parser.add_argument(
        "--steps", nargs="+", default=["naive", "capped", "all", "some"],
        choices=["naive", "capped", "all", "some"],
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
    if "all" in arguments.steps:
        run_all_layers(arguments, report)
    if "some" in arguments.steps:
        run_some_layers(arguments, report)
    report.add("seconds", round(report.seconds))
    print(json.dumps(report.values))
    return 0


if __name__ == "__main__":
    sys.exit(main())
