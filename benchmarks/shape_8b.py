"""What benchmarks on a checkpoint of the Llama-8B shape begin with, and how they tell figures."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

import finetune_speed as speed

ROOT = Path(__file__).resolve().parents[1]


def parser_of(description: str) -> argparse.ArgumentParser:
    """A parser that knows where the checkpoint is and where to work."""
    parser = argparse.ArgumentParser(description=description.split("\n")[0])
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--tokenizer", type=Path, help="checkpoint whose tokenizer to copy")
    parser.add_argument("--work", type=Path, required=True)
    return parser


def begin(options: argparse.Namespace) -> None:
    """Make the checkpoint, with random weights, if it is not there, and go to the folder to work
    in, in which `python -m tuneserve` is this checkout's."""
    options.base = options.base.resolve()
    options.work.mkdir(parents=True, exist_ok=True)
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    if not (options.base / "config.json").exists():
        speed.make_base(options.base, speed.parse([]).vocabulary, options.tokenizer)
    os.chdir(options.work)


def tell(part: str, **figures: Any) -> None:
    """One JSON object, a line."""
    print(json.dumps({"part": part, **figures}), flush=True)
