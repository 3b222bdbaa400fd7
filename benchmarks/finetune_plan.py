"""The memory plan against measured peaks of training.

Each case trains a few steps at full length in a process of its own, on a GPU the training loop
(benchmarks/finetune_speed.py), on a CPU `tuneserve train` itself, and is compared with what
finetune.plan says from config.json. Wanted: within 10 %.

    python benchmarks/finetune_plan.py --base 8B_DIR --cases gpu     # on a GPU
    python benchmarks/finetune_plan.py --base demo --cases cpu

Prints a table, then one line of JSON; exits with 1 if a case is further off.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuneserve.base import resolve_base
from tuneserve.finetune.memory.model import training_memory
from tuneserve.memory import GIB
from tuneserve.model_shape import ModelShape
from tuneserve.settings import TrainSettings

TOLERANCE = 0.10
SPEED = Path(__file__).with_name("finetune_speed.py")


@dataclass(frozen=True)
class Case:
    """One training: batch, length in tokens, base precision, checkpointing."""

    batch: int
    length: int
    four_bit: bool
    checkpointing: str
    precision: str = "bf16"
    compiled: bool = False


GPU = (
    Case(2, 1024, True, "unsloth"), Case(2, 2048, True, "unsloth"), Case(8, 1024, True, "unsloth"),
    Case(8, 2048, True, "unsloth"), Case(2, 2048, True, "true"), Case(2, 2048, True, "false"),
    Case(2, 2048, False, "false"),
)  # fmt: skip
CPU = (
    Case(8, 64, False, "false"), Case(8, 128, False, "false"), Case(8, 256, False, "false"),
    Case(4, 512, False, "false"), Case(8, 64, False, "false", compiled=True),
    Case(8, 128, False, "false", compiled=True), Case(8, 256, False, "false", compiled=True),
    Case(4, 512, False, "false", compiled=True), Case(8, 256, False, "true"),
    Case(4, 128, False, "false", "fp32"), Case(8, 128, False, "false", "fp32"),
)  # fmt: skip
WORDS = "the cat sat on a mat and then it ran away from big dogs while we ate near an old river"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--base", required=True, help="checkpoint, or a name tuneserve knows")
    parser.add_argument("--cases", choices=("gpu", "cpu"), default="gpu")
    parser.add_argument("--steps", type=int, default=6)
    options = parser.parse_args()
    device = "cuda" if options.cases == "gpu" else "cpu"
    base_path = resolve_base(options.base).path
    shape = ModelShape.read(base_path)
    rows = []
    heads = ("plan", "peak", "off")
    print(f"{'batch x length':>15} {'base':>6} {'checkpointing':>14}", *(f"{h:>7}" for h in heads))
    for case in GPU if device == "cuda" else CPU:
        row = compare(case, shape, device, base_path, options.steps)
        rows.append(row)
        base = "4-bit" if case.four_bit else case.precision + (" c" if case.compiled else "")
        print(
            f"{case.batch:>6} x {case.length:<6} {base:>6} {case.checkpointing:>14} "
            f"{row['planned'] / GIB:>7.2f} {row['measured'] / GIB:>7.2f} {row['off']:>+7.1%}",
            flush=True,
        )
    good = all(abs(row["off"]) <= TOLERANCE for row in rows)
    print(json.dumps({"base": str(options.base), "within_bounds": good, "cases": rows}))
    return 0 if good else 1


def compare(case: Case, shape: ModelShape, device: str, base: Path, steps: int) -> dict[str, Any]:
    planned = training_memory(
        shape, TrainSettings(), tokens=case.batch * case.length, four_bit=case.four_bit,
        device=device, value_bytes=4 if case.precision == "fp32" else 2,
        checkpointing=case.checkpointing, length=case.length, compiled=case.compiled,
    ).total  # fmt: skip
    measured = (peak_of if device == "cuda" else peak_of_training)(case, base, steps)
    return {**vars(case), "planned": planned, "measured": measured, "off": measured / planned - 1}


def peak_of(case: Case, base: Path, steps: int) -> int:
    command = [
        sys.executable, str(SPEED), "--kind", "ours", "--base", str(base), "--steps", str(steps),
        "--warmup", "1", "--batch", str(case.batch), "--length", str(case.length),
        "--checkpointing", case.checkpointing, "--precision", case.precision,
        *(["--four-bit"] if case.four_bit else []),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{case} failed:\n{done.stderr[-3000:]}")
    peak: int = json.loads(done.stdout.splitlines()[-1])["peak_bytes"]
    return peak


def peak_of_training(case: Case, base: Path, steps: int) -> int:
    """Resident memory of `tuneserve train` on texts that fill the length."""
    source = random.Random(0)
    words = WORDS.split()
    texts = [" ".join(source.choices(words, k=case.length)) for _ in range(case.batch * steps)]
    with tempfile.TemporaryDirectory() as directory:
        work = Path(directory)
        rows = "".join(json.dumps({"text": text}) + "\n" for text in texts)
        (work / "texts.jsonl").write_text(rows, encoding="utf-8")
        command = [
            sys.executable, "-m", "tuneserve", "train", "--run", "plan", "--base", str(base),
            "--max-seq-length", str(case.length), "--file", "texts.jsonl", "--eval-fraction", "0",
            "--test-fraction", "0", "--compile", str(case.compiled).lower(), "--speed", "as_given",
            "--gradient-checkpointing", case.checkpointing, "--precision", case.precision,
            "--batch-size", str(case.batch), "--max-steps", str(steps), "--evaluations", "0",
        ]  # fmt: skip
        done = subprocess.run(command, cwd=work, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            sys.exit(f"{case} failed:\n{done.stderr[-3000:]}")
        record = json.loads((work / "runs" / "plan" / "run.json").read_text(encoding="utf-8"))
    measured: int = record["stages"]["train"]["result"]["memory_plan"]["measured_bytes"]
    return measured


if __name__ == "__main__":
    sys.exit(main())
