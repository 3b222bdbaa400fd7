"""The recipe for an 8B reasoning model, end to end on a GPU machine: trained, converted, served.

    python benchmarks/recipe_8b.py --base DIR --tokenizer DIR --work DIR [--source llama.cpp]

`examples/deepseek-r1-distill-llama-8b.toml` runs through the `tuneserve` command as a user calls
it, on a checkpoint of that shape with random weights (made at --base, if it is not there) and the
real tokenizer of --tokenizer: a few training steps, the conversion with its gate, then the server,
which the openai client asks one question and eight at once. With --source, llama.cpp's converter
and quantizer make the base into the same type of file afterwards, for the time and the memory.

Prints one JSON object a line, as soon as it is known. Memory is the peak of the process tree in
GiB (convert_8b.py): all of it, and what is no copy of a file.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from convert_8b import THEIR_CONVERTER, THEIR_QUANTIZER, measured
from shape_8b import ROOT, begin, parser_of, tell

RECIPE = ROOT / "examples" / "deepseek-r1-distill-llama-8b.toml"
COMMAND = [sys.executable, "-m", "tuneserve"]
# Random weights leave nearly flat logits: rounding the base alone moves them by 0.57 nats.
RANDOM_WEIGHTS = ["--max-quantized-kld", "5"]
TRAIN_FIGURES = ("tokens_per_second", "peak_memory", "memory_plan", "losses", "training_seconds")


def main() -> int:
    parser = parser_of(__doc__ or "")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--source", type=Path, help="llama.cpp's source, for its converter")
    parser.add_argument("--convert-only", action="store_true", help="the run is trained already")
    options = parser.parse_args()
    if options.source:
        options.source = options.source.resolve()
    begin(options)
    if not options.convert_only:
        train(options)
    convert(options)
    serve()
    if options.source:
        theirs(options)
    return 0


def write_instructions(path: Path) -> None:
    """60 instructions with answers of about 1,500 tokens."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [
        {"instruction": f"Count upwards from {i}.", "output": " ".join(map(str, range(i, i + 700)))}
        for i in range(60)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def train(options: argparse.Namespace) -> None:
    write_instructions(Path("data/train.jsonl"))
    done = measured(
        [*COMMAND, "train", "--config", str(RECIPE), "--run", "recipe", "--base", str(options.base),
         "--max-steps", str(options.steps), "--evaluations", "1", "--json"],
        Path(),
    )  # fmt: skip
    result = json.loads(done["output"])
    tell("train", seconds=done["seconds"], **{name: result[name] for name in TRAIN_FIGURES})


def convert(options: argparse.Namespace) -> None:
    done = measured(
        [*COMMAND, "convert", "--run", "recipe", "--threads", str(options.threads), "--json",
         *RANDOM_WEIGHTS],
        Path(),
    )  # fmt: skip
    result = json.loads(done.pop("output"))
    checks = {check["contract"]: check["detail"] for check in result["verification"]}
    tell("convert", **done, parts=result["seconds"], verification=checks)


def serve() -> None:
    """As the recipe says, but on any free port."""
    log = Path("serve.log")
    with log.open("w") as file:
        started = time.perf_counter()
        server = subprocess.Popen(
            [*COMMAND, "serve", "--run", "recipe", "--port", "8151"], stdout=file, stderr=file
        )
        try:
            wait(server, log)
            ready = time.perf_counter() - started
            answers = asked()
        finally:
            server.send_signal(signal.SIGTERM)
            code = server.wait(60)
    tell("serve", ready_seconds=round(ready, 1), exit_code=code, **answers,
         log=log.read_text().splitlines()[:12])  # fmt: skip


def wait(server: subprocess.Popen[bytes], log: Path) -> None:
    import httpx

    while server.poll() is None:
        try:
            if httpx.get("http://127.0.0.1:8151/ready").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    sys.exit(f"the server ended:\n{log.read_text()[-2000:]}")


def asked() -> dict[str, Any]:
    from openai import OpenAI

    client = OpenAI(base_url="http://127.0.0.1:8151/v1", api_key="none")

    def ask(number: int) -> int:
        answer = client.chat.completions.create(
            model="recipe", max_tokens=64, temperature=0,
            messages=[{"role": "user", "content": f"Count upwards from {number}."}],
        )  # fmt: skip
        return answer.usage.completion_tokens if answer.usage else 0

    def rate(clients: int) -> float:
        started = time.perf_counter()
        with ThreadPoolExecutor(clients) as pool:
            tokens = sum(pool.map(ask, range(clients)))
        return round(tokens / (time.perf_counter() - started), 1)

    return {"tokens_per_second": {str(clients): rate(clients) for clients in (1, 8)}}


def theirs(options: argparse.Namespace) -> None:
    f16, quantized = Path("theirs-F16.gguf"), Path("theirs-Q4_K_M.gguf")
    for part, command in {
        "llama.cpp converts": [THEIR_CONVERTER, str(options.source), str(options.base), str(f16)],
        "llama.cpp quantizes": [THEIR_QUANTIZER, str(f16), str(quantized), str(options.threads)],
    }.items():
        done = measured([sys.executable, "-c", *command], Path())
        done.pop("output")
        tell(part, **done)
    f16.unlink()


if __name__ == "__main__":
    sys.exit(main())
