"""Is `tuneserve perplexity` llama-perplexity: the same figure to four digits, as fast?

Runs both on the same GGUF and text, alternately, and compares perplexity and speed: wall time of
the whole command, Python's start and the model's loading included, and CPU time (which a busy
machine distorts less). Take a text of some 20,000 tokens or more, and a machine that is otherwise
idle. The peer is built from llama.cpp and should load the very libraries of the installed
llama-cpp-python (other compiler flags round otherwise), so LD_LIBRARY_PATH points to them.

    python benchmarks/bench_perplexity.py --peer build/bin/llama-perplexity model.gguf text.txt

Prints a line for every KV cache type, then one line of JSON; exits with 1 if a figure differs or
the speed is below 0.95 of the peer's.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CACHE_TYPES = ("f16", "q8_0", "q4_0")
LOWEST_SPEED = 0.95


@dataclass(frozen=True)
class Timed:
    """A command's perplexity, and the seconds it took: by the clock, and of the processor."""

    perplexity: float
    wall: float
    cpu: float


def timed(command: list[str], pattern: str, environment: Mapping[str, str] | None = None) -> Timed:
    """Run a command; `pattern` captures the perplexity in what it prints."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.perf_counter()
    done = subprocess.run(
        command, env={**os.environ, **(environment or {})}, capture_output=True, text=True
    )
    wall = time.perf_counter() - started
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    output = done.stdout + done.stderr
    found = re.search(pattern, output)
    if done.returncode or not found:
        sys.exit(f"{command[0]} failed:\n{output[-2000:]}")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Timed(float(found.group(1)), wall, cpu)


def peer(options: argparse.Namespace, cache: str) -> Timed:
    import llama_cpp

    command = [
        str(options.peer), "-m", str(options.model), "-f", str(options.text), "-c", "512",
        "-ctk", cache, "-ctv", cache, "-fa", "on", "-ngl", "0",
        "-t", str(options.threads), "-tb", str(options.threads),
    ]  # fmt: skip
    libraries = Path(llama_cpp.__file__).parent / "lib"
    pattern = r"Final estimate: PPL = ([\d.]+)"
    return timed(command, pattern, {"LD_LIBRARY_PATH": str(libraries)})


def ours(options: argparse.Namespace, cache: str) -> Timed:
    command = [
        sys.executable, "-m", "tuneserve", "perplexity", str(options.model), str(options.text),
        "--cache-type-k", cache, "--cache-type-v", cache, "--gpu-layers", "0",
        "--threads", str(options.threads), "--json",
    ]  # fmt: skip
    return timed(command, r'"perplexity": \{"value": ([\d.]+)')


def compare(options: argparse.Namespace, cache: str) -> dict[str, Any]:
    """Both in turn, `options.repeats` times; the speed is the ratio of the fastest runs."""
    runs = [(ours(options, cache), peer(options, cache)) for _ in range(options.repeats)]
    fastest = [min(run[who].wall for run in runs) for who in (0, 1)]
    processor = [min(run[who].cpu for run in runs) for who in (0, 1)]
    return {
        "cache": cache,
        "ours": round(runs[0][0].perplexity, 4),
        "peer": runs[0][1].perplexity,
        "seconds": [round(seconds, 2) for seconds in fastest],
        "cpu_seconds": [round(seconds, 2) for seconds in processor],
        "speed": round(fastest[1] / fastest[0], 3),
        "cpu_speed": round(processor[1] / processor[0], 3),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("text", type=Path)
    parser.add_argument("--peer", type=Path, required=True, help="llama-perplexity")
    parser.add_argument("--cache-types", nargs="+", default=list(CACHE_TYPES))
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--repeats", type=int, default=1)
    options = parser.parse_args()
    rows = []
    for cache in options.cache_types:
        rows.append(compare(options, cache))
        print(", ".join(f"{name} {value}" for name, value in rows[-1].items()), flush=True)
    good = all(
        abs(row["ours"] - row["peer"]) < 1.01e-4 and row["speed"] >= LOWEST_SPEED for row in rows
    )
    print(json.dumps({"model": options.model.name, "good": good, "rows": rows}))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
