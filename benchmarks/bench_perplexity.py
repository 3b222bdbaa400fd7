"""Is `tuneserve perplexity` llama-perplexity: the same figure to four digits, as fast?

Runs both on the same GGUF and text with one thread, alternately, and compares perplexity and CPU
time (which a busy machine does not distort). The peer is built from llama.cpp and should load the
very libraries of the installed llama-cpp-python (other compiler flags round otherwise), so
LD_LIBRARY_PATH points to them.

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
from pathlib import Path
from typing import Any

CACHE_TYPES = ("f16", "q8_0")
LOWEST_SPEED = 0.95


def cpu_seconds(command: list[str], environment: dict[str, str]) -> tuple[float, str]:
    """CPU seconds that a command used, and what it printed."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return used, done.stdout + done.stderr


def peer(options: argparse.Namespace, cache: str) -> tuple[float, float]:
    """(perplexity, CPU seconds) of llama-perplexity."""
    import llama_cpp

    libraries = Path(llama_cpp.__file__).parent / "lib"
    command = [
        str(options.peer), "-m", str(options.model), "-f", str(options.text), "-c", "512",
        "-ctk", cache, "-ctv", cache, "-fa", "on", "-t", "1", "-ngl", "0",
    ]  # fmt: skip
    seconds, output = cpu_seconds(command, {**os.environ, "LD_LIBRARY_PATH": str(libraries)})
    found = re.search(r"Final estimate: PPL = ([\d.]+)", output)
    assert found, output
    return float(found.group(1)), seconds


def ours(options: argparse.Namespace, cache: str) -> tuple[float, float]:
    """(perplexity, CPU seconds) of tuneserve perplexity, Python's start included."""
    command = [
        sys.executable, "-m", "tuneserve", "perplexity", str(options.model), str(options.text),
        "--cache-type-k", cache, "--cache-type-v", cache, "--threads", "1", "--json",
    ]  # fmt: skip
    seconds, output = cpu_seconds(command, {**os.environ, "OMP_NUM_THREADS": "1"})
    line = next(line for line in output.splitlines() if line.startswith("{"))
    return float(json.loads(line)["perplexity"]["value"]), seconds


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("text", type=Path)
    parser.add_argument("--peer", type=Path, required=True, help="llama-perplexity")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for cache in CACHE_TYPES:
        (our_figure, our_seconds), (their_figure, their_seconds) = (
            ours(options, cache),
            peer(options, cache),
        )
        row = {
            "cache": cache,
            "ours": round(our_figure, 4),
            "peer": their_figure,
            "cpu_seconds": [round(our_seconds, 2), round(their_seconds, 2)],
            "speed": round(their_seconds / our_seconds, 3),
        }
        rows.append(row)
        print(", ".join(f"{name} {value}" for name, value in row.items()), flush=True)
    good = all(
        abs(row["ours"] - row["peer"]) < 1.01e-4 and row["speed"] >= LOWEST_SPEED for row in rows
    )
    print(json.dumps({"model": options.model.name, "good": good, "rows": rows}))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
