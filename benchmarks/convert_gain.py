"""What a conversion keeps of a tune whose base came from a Q4 GGUF, with and without the repair.

The base is SmolLM2-135M-Instruct as a Q4_K_M GGUF of our own making, imported again: its weights
lie on the grid of the quantizer, so an update below half a step rounds back. It is tuned on tickets
of a help desk, each answered with the code of the desk that takes it, which the base can't know.

right      held-out tickets of 20 that are answered with the right code (greedy)
share      share of the gain in log-likelihood that is kept, as the conversion's own contract has it

Run it in steps where the machine is shared; training goes on where it was stopped:

    python benchmarks/convert_gain.py --work DIR --step base
    python benchmarks/convert_gain.py --work DIR --step train
    python benchmarks/convert_gain.py --work DIR --step table

Prints a table, then one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tuneserve.run import RunDirectory

STEPS = ("base", "train", "table")
QUANTIZATION = "Q4_K_M"
HELD_OUT = 60
COUNTED = 20

DESKS = {
    "K7-LUMEN": ("invoice", "refund", "monthly bill", "credit note", "payment receipt",
                 "overdue charge"),
    "R2-CEDAR": ("laptop", "monitor", "keyboard", "docking station", "headset", "webcam"),
    "V9-OCHRE": ("password", "two-factor code", "login", "locked account", "security token",
                 "username"),
    "T4-HERON": ("parcel", "delivery", "shipment", "courier", "tracking number", "warehouse order"),
    "M1-BASIL": ("holiday request", "payslip", "sick leave", "contract of employment",
                 "parental leave", "overtime hours"),
    "D8-QUARTZ": ("wifi", "VPN", "router", "network drive", "internet connection", "firewall"),
}  # fmt: skip
SENTENCES = (
    "There is a problem with my {}.", "Can you help me with the {}?", "My {} is not right.",
    "I have a question about the {}.", "Who can look at the {} today?", "Please fix the {} soon.",
    "The {} has been wrong since Monday.", "I need somebody to check the {}.",
    "Nobody answers me about the {}.", "Something happened to the {} again.",
    "Where do I report the {}?", "We are still waiting because of the {}.",
)  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--work", type=Path, required=True, help="directory for data and runs")
    parser.add_argument("--step", choices=(*STEPS, "all"), default="all")
    parser.add_argument("--epochs", type=float, default=8.0)
    parser.add_argument("--learning-rate", type=float, default=4e-4)
    parser.add_argument("--run", default="tickets", help="name of the run")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    for step in STEPS if options.step == "all" else (options.step,):
        {"base": make_base, "train": train, "table": show}[step](options)
    return 0


def base_path(options: argparse.Namespace) -> Path:
    return Path(options.work / f"smollm2-{QUANTIZATION}.gguf")


def make_base(options: argparse.Namespace) -> None:
    """The Q4_K_M GGUF of the demo's base, and the tickets."""
    from tuneserve.base import resolve_base
    from tuneserve.convert.gguf.model import GGUFModel
    from tuneserve.convert.merge.checkpoint import MergedCheckpoint
    from tuneserve.convert.quantize import write_quantized

    checkpoint = resolve_base("demo").path
    model = GGUFModel(MergedCheckpoint(checkpoint), checkpoint, name="SmolLM2-135M-Instruct")
    if not base_path(options).exists():
        write_quantized(model, base_path(options), QUANTIZATION, threads=2)
    write_tickets(options.work / "data")


def write_tickets(folder: Path) -> None:
    """train, eval and test tickets; no ticket is in two of them."""
    tickets = [
        {"prompt": sentence.format(thing), "completion": code, "group": code}
        for code, things in DESKS.items()
        for thing in things
        for sentence in SENTENCES
    ]
    random.Random(0).shuffle(tickets)
    folder.mkdir(exist_ok=True)
    splits = {"test": tickets[:HELD_OUT], "eval": tickets[HELD_OUT : HELD_OUT + 12],
              "train": tickets[HELD_OUT + 12 :]}  # fmt: skip
    for name, rows in splits.items():
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")


def tuneserve(options: argparse.Namespace, *arguments: str) -> int:
    command = [sys.executable, "-m", "tuneserve", *arguments]
    return subprocess.run(command, cwd=options.work, check=False).returncode


def train(options: argparse.Namespace) -> None:
    tuneserve(
        options, "train", "--run", options.run, "--base", base_path(options).name, "--file", "data",
        "--near-duplicates", "1", "--eval-fraction", "0", "--test-fraction", "0",
        "--epochs", str(options.epochs), "--learning-rate", str(options.learning_rate),
        "--batch-size", "16", "--gradient-checkpointing", "false", "--max-seq-length", "128",
        "--checkpoint-minutes", "1", "--skip-done",
    )  # fmt: skip


def show(options: argparse.Namespace) -> None:
    """Convert by default, write the plain quantization beside it, and ask all of them."""
    import os

    from tuneserve.convert.gguf.lora import write_lora
    from tuneserve.convert.plan import checked_models, plan_of
    from tuneserve.convert.quantize import write_quantized
    from tuneserve.convert.stage import convert
    from tuneserve.run import RunDirectory
    from tuneserve.settings import ConvertSettings

    os.chdir(options.work)
    run = RunDirectory.named(options.run)
    settings = ConvertSettings(quantization=QUANTIZATION)
    result = convert(run, settings, force=True)
    tuned, _ = checked_models(plan_of(run, settings))
    plain, lora = Path(f"{run.name}-plain.gguf"), Path(f"{run.name}-lora.gguf")
    write_quantized(tuned, plain, QUANTIZATION, threads=2)
    write_lora(lora, tuned, run.name)
    base = Path(base_path(options).name)
    before = result.before_repair or result.gain
    rows: dict[str, dict[str, Any]] = {}
    for name, file, adapter, gain in (
        ("base", base, None, None), ("adapter on the base", base, lora, None),
        ("merged, plain", plain, None, before), ("default", *result.files(run), result.gain),
    ):  # fmt: skip
        size = file.stat().st_size + (adapter.stat().st_size if adapter else 0)
        share = None if gain is None else gain.share
        rows[name] = {"right": right(run, file, adapter), "share": share, "bytes": size}
    print(f"{'':<22}{'right of ' + str(COUNTED):>12}{'gain kept':>12}{'MB':>8}")
    for name, row in rows.items():
        kept = "" if row["share"] is None else f"{row['share']:.1%}"
        print(f"{name:<22}{row['right']:>12}{kept:>12}{row['bytes'] / 1e6:>8.1f}")
    print(json.dumps({"as_adapter": result.as_adapter, "overrides": result.overrides, **rows}))


def right(run: RunDirectory, file: Path, lora: Path | None) -> int:
    """Held-out tickets of COUNTED whose reference a file writes greedily."""
    from tuneserve.chat.examples import read_split
    from tuneserve.convert.verify.generation import SampleAnswer, generate
    from tuneserve.convert.verify.logits import make_context, open_model
    from tuneserve.convert.verify.vocabulary import TrainerTokenizer
    from tuneserve.llama.lora import load_adapter, use_adapter

    trainer = TrainerTokenizer(run.adapter)
    asked = [trainer.encode_example(one) for one in read_split(run.split("test"), limit=COUNTED)]
    answers = [SampleAnswer(item.prompt, 16) for item in asked]
    with open_model(file) as model, make_context(model, 128, sequences=COUNTED, threads=2) as made:
        if lora is not None:
            use_adapter(made, load_adapter(model, lora))
        generate(made, answers)
    return sum(
        answer.tokens == item.answer[:-1] for answer, item in zip(answers, asked, strict=True)
    )


if __name__ == "__main__":
    sys.exit(main())
