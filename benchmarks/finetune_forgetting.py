"""What a fine-tune forgets, with and without replay, on the sentiment recipe.

Trains the recipe twice, once on the task alone and once with general examples replayed, and
compares both with the base:

accuracy        right answers on the held-out test prompts (greedy, the whole answer compared)
general loss    nats per answer token on held-out general examples that the base itself wrote; its
                rise over the base's estimates the KL divergence from the base
manual loss     nats per token on the Python manual (the text of Python's own `help`), a text of
                another kind than what is replayed

Run it in steps where the machine is shared; what is done already is not done again:

    python benchmarks/finetune_forgetting.py --work DIR --step general
    python benchmarks/finetune_forgetting.py --work DIR --step plain
    python benchmarks/finetune_forgetting.py --work DIR --step replay
    python benchmarks/finetune_forgetting.py --work DIR --step table

--per-cell 11 is the recipe at a tenth of its size. Prints a table, then one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import pydoc_data.topics
import subprocess
import sys
from pathlib import Path
from typing import Any

STEPS = ("general", "plain", "replay", "table")
MANUAL_PIECES = 48
PIECE_TOKENS = 256
BATCH = 16
LONGEST_ANSWER = 6


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--work", type=Path, required=True, help="directory for data and runs")
    parser.add_argument("--step", choices=(*STEPS, "all"), default="all")
    parser.add_argument("--per-cell", type=int, default=110)
    parser.add_argument("--replay", type=float, default=0.2)
    parser.add_argument("--measure", help="a run's name, or base (used by the table itself)")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    if options.measure:
        print(json.dumps(measure(options.work, options.measure)))
        return 0
    for step in STEPS if options.step == "all" else (options.step,):
        {"general": make_data, "plain": train, "replay": train, "table": show}[step](options, step)
    return 0


def tuneserve(options: argparse.Namespace, *arguments: str) -> None:
    command = [sys.executable, "-m", "tuneserve", *arguments]
    subprocess.run(command, cwd=options.work, check=True)


def make_data(options: argparse.Namespace, _: str) -> None:
    tuneserve(options, "data", "sentiment", "--per-cell", str(options.per_cell), "--skip-done")
    tuneserve(options, "data", "general", "--skip-done")


def train(options: argparse.Namespace, name: str) -> None:
    replay = options.replay if name == "replay" else 0.0
    tuneserve(
        options, "train", "--config", "sentiment", "--run", name, "--skip-done",
        "--general", "data/general.jsonl", "--replay", str(replay),
    )  # fmt: skip


def show(options: argparse.Namespace, _: str) -> None:
    rows = {}
    for name in ("base", "plain", "replay"):
        command = [sys.executable, __file__, "--work", str(options.work), "--measure", name]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        rows[name] = json.loads(done.stdout.splitlines()[-1])
    print(f"{'':<10}{'accuracy':>10}{'general loss':>14}{'manual loss':>13}")
    for name, row in rows.items():
        print(f"{name:<10}{row['accuracy']:>10.1%}{row['general']:>14.3f}{row['manual']:>13.3f}")
    print(json.dumps({"replay": options.replay, "per_cell": options.per_cell, **rows}))


def measure(work: Path, name: str) -> dict[str, Any]:
    """Figures of a run's adapter on the base, or of the base alone."""
    from tuneserve.base import resolve_base
    from tuneserve.chat.examples import read_split
    from tuneserve.finetune.runtime.model import load_tokenizer
    from tuneserve.finetune.self_distillation import load_for_generation
    from tuneserve.finetune.tokens.encoder import Encoder
    from tuneserve.settings import ModelSettings

    base = resolve_base("demo").path
    encoder = Encoder(load_tokenizer(base, ModelSettings()), max_length=1 << 20)
    model = load_for_generation(base, ModelSettings())
    if name != "base":
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, str(work / "runs" / name / "adapter")).eval()
    data = work / "runs" / ("plain" if name == "base" else name) / "data"
    general = [encoder.encode(example) for example in read_split(data / "general.jsonl")]
    pairs = [(item.input_ids, item.labels) for item in general]
    manual = [(ids, ids) for ids in manual_pieces(encoder)]
    return {
        "accuracy": accuracy(model, encoder, read_split(data / "test.jsonl")),
        "general": loss(model, pairs),
        "manual": loss(model, manual),
        "prompts": len(read_split(data / "test.jsonl")),
        "general_examples": len(general),
    }


def manual_pieces(encoder: Any) -> list[list[int]]:
    text = "\n\n".join(pydoc_data.topics.topics[key] for key in sorted(pydoc_data.topics.topics))
    ids = encoder.tokenizer(text[: 8 * MANUAL_PIECES * PIECE_TOKENS])["input_ids"]
    pieces = [ids[i : i + PIECE_TOKENS] for i in range(0, len(ids), PIECE_TOKENS)]
    return pieces[:MANUAL_PIECES]


def accuracy(model: Any, encoder: Any, examples: list[Any]) -> float:
    """Share of prompts whose greedy answer is the reference."""
    from tuneserve.finetune.self_distillation import generate_by_torch

    right = 0
    order = sorted(
        ((encoder.prompt_ids(e.prompt), e) for e in examples), key=lambda pair: len(pair[0])
    )
    for start in range(0, len(order), BATCH):
        part = order[start : start + BATCH]
        answers = generate_by_torch(
            model, encoder, [ids for ids, _ in part], do_sample=False,
            max_new_tokens=LONGEST_ANSWER,
        )  # fmt: skip
        for (_, example), ids in zip(part, answers, strict=True):
            text = encoder.tokenizer.decode(ids, skip_special_tokens=True)
            wanted = example.reference
            right += text.strip().casefold() == wanted.strip().casefold()
    return right / len(examples)


def loss(model: Any, pairs: list[tuple[list[int], list[int]]]) -> float:
    """Mean loss in nats over all labelled tokens."""
    import torch

    total = count = 0.0
    for ids, labels in pairs:
        targets = torch.tensor([labels])
        number = int((targets[:, 1:] != -100).sum())
        with torch.no_grad():
            found = model(input_ids=torch.tensor([ids]), labels=targets).loss
        total += float(found) * number
        count += number
    return total / count


if __name__ == "__main__":
    sys.exit(main())
