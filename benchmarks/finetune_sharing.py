"""Tokens per second and peak memory of training with shared beginnings and without.

Three sets of examples: the sentiment recipe (a common instruction, short answers), a long common
beginning, and texts with nothing in common. Each is trained by `tuneserve train` itself, with
prefix_sharing off and on, in turn; the rate is that of all steps but the first and counts the
examples' own tokens.

    tuneserve data sentiment
    python benchmarks/finetune_sharing.py
    OMP_NUM_THREADS=2 ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 UNSLOTH_CPU_BF16=0 \\
        python benchmarks/finetune_sharing.py    # as a CPU without AVX-512 and bf16 would
    python benchmarks/finetune_sharing.py --base DIR --tokenizer DIR --words 1450,95,28 \\
        --only "long beginning"    # on a GPU, a Llama-8B shape, made there with random weights

Prints a table, then one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import finetune_speed as speed

RECIPE = Path(__file__).parent.parent / "examples" / "sentiment.toml"
WORDS = "the cat sat on a mat and then it ran away from big dogs while we ate near an old river"
# (words of the common beginning, of an example's own input, of its answer), steps.
MADE: dict[str, tuple[tuple[int, ...], int]] = {
    "long beginning": ((1100, 70, 20), 24),
    "nothing in common": ((0, 70, 20), 24),
}
WAYS = {"apart": "false", "shared": "true"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, default=Path("data/sentiment.jsonl"))
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--steps", type=int, default=40, help="of the sentiment recipe")
    parser.add_argument("--only", choices=("sentiment", *MADE))
    parser.add_argument("--words", help="of the long beginning, of an input, of an answer")
    parser.add_argument("--base", type=Path, help="checkpoint in place of the recipe's base")
    parser.add_argument("--tokenizer", type=Path, help="checkpoint whose tokenizer to copy")
    parser.add_argument("more", nargs="*", help="options for all trainings, after --")
    options = parser.parse_args()
    if options.words:
        MADE["long beginning"] = tuple(map(int, options.words.split(","))), 24
    more = list(options.more)
    if options.base:
        if not (options.base / "config.json").exists():
            speed.make_base(options.base, speed.parse([]).vocabulary, options.tokenizer)
        more += ["--base", str(options.base.absolute())]
    found = []
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        cases = {"sentiment": (options.data.absolute(), options.steps)}
        for name, (words, steps) in MADE.items():
            cases[name] = (write_examples(folder / f"{name}.jsonl", *words), steps)
        for repeat in range(options.repeats):
            for name, (file, steps) in cases.items():
                for way, setting in WAYS.items():
                    if options.only in (None, name):
                        measured = train(folder, f"{way}{repeat}", file, steps, setting, more)
                        found.append({"examples": name, "way": way, **measured})
                        print(f"{name:>18} {way:>7}", measured, flush=True)
    print(json.dumps(found))


def write_examples(path: Path, common: int, own: int, answer: int) -> Path:
    """400 examples of so many words, beginning alike as far as the system prompt goes."""
    source = random.Random(1)
    words = WORDS.split()

    def text(count: int) -> str:
        return " ".join(source.choice(words) for _ in range(count))

    beginning = text(common)
    with path.open("w", encoding="utf-8") as file:
        for number in range(400):
            messages = [
                {"role": "system", "content": beginning or text(60)},
                {"role": "user", "content": f"{number} {text(own)}"},
                {"role": "assistant", "content": text(answer)},
            ]
            file.write(json.dumps({"messages": messages}) + "\n")
    return path


def train(
    folder: Path, run: str, file: Path, steps: int, sharing: str, more: Sequence[str]
) -> dict[str, Any]:
    """One training; tokens/s of its steps after the first, peak memory in GiB, its losses."""
    command = [
        sys.executable, "-m", "tuneserve", "train", "--config", str(RECIPE), "--file", str(file),
        "--run", run, "--force", "--max-steps", str(steps), "--evaluations", "0",
        "--max-seq-length", "2048", "--near-duplicates", "1", "--prefix-sharing", sharing,
        "--no-preflight", "--json", *more,
    ]  # fmt: skip
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    result = json.loads(done.stdout)
    peak = result["peak_memory"]
    return {
        "tokens_per_second": round(result["steady_tokens_per_second"]),
        "said": [line for line in done.stderr.splitlines() if "begin" in line],
        "chosen": result["memory_plan"]["chosen"],
        "peak_gib": round(peak.get("gpu_bytes", peak["resident_bytes"]) / 2**30, 2),
        "planned_gib": round(result["memory_plan"]["predicted_bytes"] / 2**30, 2),
        "seconds": result["training_seconds"],
        "losses": [round(loss, 5) for _, loss in result["losses"]["train"]],
    }


if __name__ == "__main__":
    main()
