"""Tokens per second and time to first token of several servers, on the same GGUFs, in one run.

What is measured, and why: generated tokens of all clients together per second of wall time (what a
machine's owner pays for), and the time from sending a request to its first text (what a person
waits for), as median and 99th percentile; and the server's processor time per token, which other
work on the machine disturbs least. For each model all servers (serve_peers.py) are loaded, and are
asked one at a time (serve_load.py), in short rounds that take turns (a b c, c b a), so that a
machine that changes its pace does so for all; greedily and as people sample.

    python benchmarks/random_gguf.py smollm2.gguf wide.gguf --vocabulary 128256 --logits 5
    python benchmarks/serve_throughput.py smollm2.gguf wide.gguf --llama-server PATH/llama-server \\
        --example-server SOURCE/examples/server/server.py --stock --clients 1 8 32 128

On a GPU with `--gpu-layers auto`. What has been measured is written to --json after each number of
clients; the last line printed is the same JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from serve_load import SAMPLINGS, Load, Result, measure_round, round_of
from serve_peers import CACHE_TYPES, Peer, Programs, Setting, all_running, others, ours

TOKENS_OF_A_REQUEST = 128
"""Room in the KV cache for a prompt, beside its answer."""


class Measurement:
    """One run; `values` is {model: {sampling: {server: {clients: figures}}}}."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._arguments = arguments
        self._number = 0
        self.values: dict[str, dict[str, dict[str, dict[str, Any]]]] = {}

    def run(self) -> None:
        for model in self._arguments.models:
            self._measure(model)

    def _measure(self, model: Path) -> None:
        arguments = self._arguments
        setting = Setting(
            threads=arguments.threads, ctx=arguments.ctx, slots=arguments.slots,
            gpu_layers=arguments.gpu_layers, cache_type=arguments.cache_type,
        )  # fmt: skip
        programs = Programs(
            llama_server=arguments.llama_server, example_server=arguments.example_server,
            stock=arguments.stock, python=arguments.python, without=tuple(arguments.without),
        )  # fmt: skip
        peers = [ours(model, setting), *others(model, setting, programs, arguments.logs)]
        found = self.values.setdefault(model.name, {})
        with all_running(peers, arguments.logs) as processes:
            ready = [peer for peer in peers if peer.name in processes]
            for peer in ready:
                asyncio.run(round_of(peer, 2, Load(1, 16), Result(), number=self._next()))
            for sampling in arguments.sampling:
                figures = found.setdefault(sampling, {peer.name: {} for peer in ready})
                for clients in arguments.clients:
                    print(f"{model.name}, {sampling}", file=sys.stderr)
                    results = self._rounds(ready, processes, clients, sampling)
                    for name, result in results.items():
                        figures[name][str(clients)] = result.figures()
                    self._write()

    def _rounds(
        self, ready: list[Peer], processes: dict[str, int], clients: int, sampling: str
    ) -> dict[str, Result]:
        arguments = self._arguments
        results = {peer.name: Result() for peer in ready}
        for repeat in range(arguments.repeats):
            number = self._next()
            # a b c, c b a: none is always the first.
            for peer in ready if repeat % 2 == 0 else reversed(ready):
                if peer.one_at_a_time and repeat:
                    continue
                requests = 1 if peer.one_at_a_time else arguments.requests
                load = Load(requests, arguments.max_tokens, SAMPLINGS[sampling])
                measure_round(
                    peer, processes[peer.name], clients, load, results[peer.name], number=number
                )
        return results

    def _next(self) -> int:
        """Prompts of this number have not been asked yet."""
        self._number += 1
        return self._number

    def _write(self) -> None:
        if self._arguments.json:
            self._arguments.json.write_text(json.dumps(self.values, indent=1))


def show(values: dict[str, dict[str, dict[str, dict[str, Any]]]]) -> None:
    for model, by_sampling in values.items():
        for sampling, by_server in by_sampling.items():
            print(f"\n{model}, {sampling}")
            print(
                f"{'server':19}{'clients':>8}{'tok/s':>9}{'TTFT p50':>10}{'p99':>8}"
                f"{'CPU/tok':>10}{'failed':>8}"
            )
            for name, by_clients in by_server.items():
                for clients, figures in by_clients.items():
                    print(
                        f"{name:19}{clients:>8}{figures['tokens_per_second']:>9.1f}"
                        f"{seconds(figures['ttft_p50']):>10}{seconds(figures['ttft_p99']):>8}"
                        f"{figures['cpu_ms_per_token']:>8.2f}ms{figures['failures']:>8}"
                    )


def seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}s"


def add_programs(parser: argparse.ArgumentParser) -> None:
    """Options that say which peers are measured."""
    parser.add_argument("--llama-server", type=Path, default=shutil.which("llama-server"))
    parser.add_argument("--example-server", type=Path, help="llama-cpp-python's server.py")
    parser.add_argument("--stock", action="store_true", help="measure python -m llama_cpp.server")
    parser.add_argument("--python", default=sys.executable, help="has what those two need")
    parser.add_argument("--without", nargs="+", default=[], help="names of servers to leave out")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("models", type=Path, nargs="+")
    add_programs(parser)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32, 128])
    parser.add_argument(
        "--sampling", nargs="+", choices=sorted(SAMPLINGS), default=["greedy", "sampled"]
    )
    parser.add_argument("--requests", type=int, default=2, help="requests of each client")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--max-tokens", type=int, default=96)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--ctx", type=int, help="default: room for all clients' requests")
    parser.add_argument("--slots", type=int, help="default: the most clients")
    parser.add_argument("--cache-type", default="q8_0", choices=sorted(CACHE_TYPES))
    parser.add_argument("--gpu-layers", default="0", help="a number, or auto")
    parser.add_argument("--logs", type=Path, default=Path("/tmp/serve_throughput"))
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    arguments.slots = arguments.slots or max(arguments.clients)
    room = arguments.slots * (TOKENS_OF_A_REQUEST + arguments.max_tokens)
    arguments.ctx = arguments.ctx or max(16384, room)
    arguments.logs.mkdir(parents=True, exist_ok=True)
    return arguments


if __name__ == "__main__":
    measurement = Measurement(parse())
    measurement.run()
    show(measurement.values)
    print(json.dumps(measurement.values))
