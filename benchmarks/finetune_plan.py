"""The memory plan against measured peaks of training.

Each case trains a few steps at full length in a process of its own (benchmarks/finetune_speed.py)
and is compared with what finetune.plan says from config.json. Wanted: within 10 %.

    python benchmarks/finetune_plan.py --base 8B_DIR --cases gpu     # on a GPU
    python benchmarks/finetune_plan.py --base SMALL_DIR --cases cpu

Prints a table, then one line of JSON; exits with 1 if a case is further off.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.plan import GIB, Shape, training_memory
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


GPU = (
    Case(2, 1024, True, "unsloth"), Case(2, 2048, True, "unsloth"), Case(8, 1024, True, "unsloth"),
    Case(8, 2048, True, "unsloth"), Case(2, 2048, True, "true"), Case(2, 2048, True, "false"),
    Case(2, 2048, False, "false"),
)  # fmt: skip
CPU = (
    Case(4, 128, False, "false"), Case(8, 128, False, "false"), Case(4, 256, False, "true"),
    Case(4, 128, False, "false", "fp32"), Case(8, 128, False, "false", "fp32"),
)  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--cases", choices=("gpu", "cpu"), default="gpu")
    parser.add_argument("--steps", type=int, default=3)
    options = parser.parse_args()
    device = "cuda" if options.cases == "gpu" else "cpu"
    shape = Shape.read(options.base)
    rows = []
    heads = ("plan", "peak", "off")
    print(f"{'batch x length':>15} {'base':>6} {'checkpointing':>14}", *(f"{h:>7}" for h in heads))
    for case in GPU if device == "cuda" else CPU:
        row = compare(case, shape, device, options.base, options.steps)
        rows.append(row)
        base = "4-bit" if case.four_bit else case.precision
        print(
            f"{case.batch:>6} x {case.length:<6} {base:>6} {case.checkpointing:>14} "
            f"{row['planned'] / GIB:>7.2f} {row['measured'] / GIB:>7.2f} {row['off']:>+7.1%}",
            flush=True,
        )
    good = all(abs(row["off"]) <= TOLERANCE for row in rows)
    print(json.dumps({"base": str(options.base), "within_bounds": good, "cases": rows}))
    return 0 if good else 1


def compare(case: Case, shape: Shape, device: str, base: Path, steps: int) -> dict[str, Any]:
    planned = training_memory(
        shape, TrainSettings(), tokens=case.batch * case.length, four_bit=case.four_bit,
        device=device, value_bytes=4 if case.precision == "fp32" else 2,
        checkpointing=case.checkpointing,
    ).total  # fmt: skip
    measured = peak_of(case, base, steps)
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


if __name__ == "__main__":
    sys.exit(main())
