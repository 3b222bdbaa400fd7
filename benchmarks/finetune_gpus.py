"""Training on two GPUs beside training on one: rate, losses, and what a killed process leaves.

A checkpoint of the Llama-8B shape with random weights is trained by the `tuneserve` command as a
user calls it, with the same recipe each time: 16 examples a step, of about 1,830 tokens each.

    python benchmarks/finetune_gpus.py --base DIR --tokenizer DIR --work DIR [--steps 34]

One GPU, then two, then two with the base divided (--shard): tokens per second of the steps after
the first, peak memory, and how far the losses of the steps are apart. Then two again, of which one
process is killed with SIGKILL at some step, and one GPU that goes on from the checkpoint: how far
its losses are from those of one GPU.

Prints one JSON object a line, as soon as it is known.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from shape_8b import begin, parser_of, tell

TRAIN = (
    sys.executable, "-m", "tuneserve", "train", "--file", "data.jsonl", "--max-seq-length", "2048",
    "--batch-size", "4", "--gradient-accumulation", "4", "--evaluations", "1", "--dropout", "0",
    "--near-duplicates", "1", "--no-preflight", "--checkpoint-minutes", "0.05", "--json",
)  # fmt: skip
FIGURES = (
    "device", "training_seconds", "tokens_per_second", "steady_tokens_per_second", "peak_memory",
    "memory_plan",
)  # fmt: skip


def main() -> int:
    parser = parser_of(__doc__ or "")
    parser.add_argument("--steps", type=int, default=34)
    parser.add_argument("--seed", type=int, default=0, help="of the step at which one is killed")
    parser.add_argument("--no-kill", action="store_true", help="leave out the killed process")
    parser.add_argument("more", nargs="*", help="options for all trainings, after --")
    options = parser.parse_args()
    begin(options)
    write_data(Path("data.jsonl"), options.steps * 16 + 64)
    one = trained("one", 1, options)
    two = trained("two", 2, options)
    tell(
        "two beside one", apart=apart(one, two),
        rate=round(two["steady_tokens_per_second"] / one["steady_tokens_per_second"], 3),
    )  # fmt: skip
    divided = trained("divided", 2, options, "--shard")
    tell(
        "divided beside one", apart=apart(one, divided),
        rate=round(divided["steady_tokens_per_second"] / one["steady_tokens_per_second"], 3),
    )  # fmt: skip
    if options.no_kill:
        return 0
    step = random.Random(options.seed).randrange(options.steps // 3, options.steps * 2 // 3)
    killed_at(step, options)
    rest = trained("killed", 1, options, "--skip-done")
    tell("gone on with one", apart=apart(one, rest))
    return 0


def write_data(path: Path, count: int) -> None:
    rows = [
        {"instruction": f"Count upwards ({i}).", "output": " ".join(map(str, range(start, end)))}
        for i in range(count)
        for start, end in [(i % 100, i % 100 + 900)]
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def command(run: str, gpus: int, options: argparse.Namespace, *more: str) -> list[str]:
    return [
        *TRAIN, "--run", run, "--gpus", str(gpus), "--base", str(options.base), "--max-steps",
        str(options.steps), *options.more, *more,
    ]  # fmt: skip


def trained(run: str, gpus: int, options: argparse.Namespace, *more: str) -> dict[str, Any]:
    """What the training tells of itself."""
    started = time.perf_counter()
    done = subprocess.run(
        command(run, gpus, options, *more), capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        sys.exit(f"{run}: {done.returncode}\n{done.stderr[-3000:]}")
    result: dict[str, Any] = json.loads(done.stdout)
    tell(
        run, gpus=gpus, seconds=round(time.perf_counter() - started, 1),
        said=[line for line in done.stderr.splitlines() if "going on" in line or "note" in line],
        **{name: result[name] for name in FIGURES},
    )  # fmt: skip
    return result


def losses(result: dict[str, Any]) -> dict[int, float]:
    return dict(result["losses"]["train"])


def apart(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """The largest difference between losses of the same step."""
    first, second = losses(one), losses(other)
    both = sorted(first.keys() & second.keys())
    furthest = max(both, key=lambda step: abs(first[step] - second[step]))
    return {
        "steps": len(both), "most": round(abs(first[furthest] - second[furthest]), 6),
        "at": furthest, "first": first[both[0]], "last": [first[both[-1]], second[both[-1]]],
    }  # fmt: skip


def killed_at(step: int, options: argparse.Namespace) -> None:
    """Train on two GPUs, and kill the second process when so many steps are done."""
    process = subprocess.Popen(
        command("killed", 2, options), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    while reached(Path("runs/killed/progress.jsonl")) < step:
        if process.poll() is not None:
            sys.exit(f"killed: it ended by itself\n{(process.communicate()[1])[-3000:]}")
        time.sleep(0.05)
    found = subprocess.run(
        ["pgrep", "-P", str(process.pid)], stdout=subprocess.PIPE, text=True, check=True
    )  # fmt: skip
    os.kill(int(found.stdout.split()[-1]), signal.SIGKILL)
    began = time.perf_counter()
    said = process.communicate()[1]
    tell(
        "killed", at_step=step, code=process.returncode,
        ended_after_seconds=round(time.perf_counter() - began, 1), said=said.splitlines()[-2:],
    )  # fmt: skip


def reached(path: Path) -> int:
    try:
        return int(json.loads(path.read_text().splitlines()[-1]).get("step", 0))
    except (OSError, ValueError, IndexError):
        return 0


if __name__ == "__main__":
    sys.exit(main())
