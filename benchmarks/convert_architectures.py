"""Dense architectures: does each train, convert and compute what transformers computes?

Tiny random checkpoints (tests/convert/gguf/test_dense.py). For each:

- trains, converts: `tuneserve train` with target_modules = all-linear (STEPS steps), and `tuneserve
  convert` of what it trained to F16, which must pass all checks (--train);
- F16, BF16: our GGUF against llama.cpp's converter's, every tensor's bytes and every key; a dash
  where that converter doesn't run on the checkpoint, and why;
- logits: mean KL divergence (nats a position) of llama.cpp on our F16 GGUF from transformers, and
  on the converter's where that differs;
- LoRA: the same of base and LoRA GGUF from PEFT's logits, and of the base alone from them;
- merged: of the merged GGUF from PEFT's.

    python benchmarks/convert_architectures.py LLAMA_CPP_SOURCE TOKENIZER SPM --work DIRECTORY

TOKENIZER: a directory with a byte-level tokenizer.json, SPM: one with a tokenizer.model, for Gemma.
What DIRECTORY holds already is used again. Prints a table, and why something failed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from tests.convert.gguf.test_dense import (
    DENSE,
    SEQUENCES,
    SMALL,
    make_dense,
    trainer_logits,
    write,
)
from tests.convert.gguf.test_exact import DIFFERENT
from tests.convert.gguf.test_experts import GLM_TOKENS, with_glm_tokens
from tuneserve.convert.gguf.lora import write_lora
from tuneserve.convert.gguf.model import GGUFModel
from tuneserve.convert.merge.adapter import Adapter
from tuneserve.convert.merge.checkpoint import MergedCheckpoint
from tuneserve.convert.verify.logits import file_logits
from tuneserve.divergence import divergence
from tuneserve.errors import UsageError
from tuneserve.files import read_json, write_json
from tuneserve.finetune.runtime.targets import with_targets
from tuneserve.gguf.reader import GGUFFile
from tuneserve.settings import TrainSettings

Made = TypeVar("Made")
WITH_SENTENCEPIECE = ("gemma", "gemma-2", "gemma-4")
SENTENCEPIECE_ROWS = 32000
TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# Enough for answers that end, and a tune that is more than what rounding to F16 changes in random
# weights.
STEPS, RATE = 32, 0.01
# llama.cpp's converter tells byte-level BPE from sentencepiece by the class that is named.
CLASSES = {"phi-4-mini": "GPT2Tokenizer"}
_DRIVER = """
import runpy, sys, traceback
folder = sys.argv[1]
sys.path[:0] = [folder + "/gguf-py", folder]
for wanted in sys.argv[2:]:
    source, target, kind = wanted.split("=")
    # Without the layers that predict further tokens, which these checkpoints don't have.
    sys.argv = ["convert_hf_to_gguf.py", source, "--outfile", target, "--outtype", kind]
    sys.argv += ["--no-mtp"] * ("qwen3.5" in source)
    try:
        runpy.run_path(folder + "/convert_hf_to_gguf.py", run_name="__main__")
    except (SystemExit, Exception) as error:
        open(target + ".error", "w").write(repr(error))
"""


def make_adapter(base: Path, directory: Path) -> Path:
    """A random adapter on all linear layers of the text model."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

    config = AutoConfig.from_pretrained(base)
    auto = AutoModelForImageTextToText if hasattr(config, "vision_config") else AutoModelForCausalLM
    model = auto.from_pretrained(base, dtype=torch.float32)
    targets = list(with_targets(base, TrainSettings(target_modules=("all-linear",))).target_modules)
    eyes = r".*(vision|visual|projector).*"
    lora = LoraConfig(r=4, lora_alpha=8, target_modules=targets, exclude_modules=eyes)
    torch.manual_seed(2)
    peft = get_peft_model(model, lora)
    for name, weight in peft.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(weight, std=0.1)
    peft.save_pretrained(directory)
    return directory


def differences(ours: Path, theirs: Path) -> list[str]:
    """Names of the tensors and keys that differ from llama.cpp's converter's."""
    mine, other = GGUFFile(ours), GGUFFile(theirs)
    found = sorted(set(mine.tensors) ^ set(other.tensors))
    for name in set(mine.tensors) & set(other.tensors):
        same = mine.type_name(name) == other.type_name(name) and np.array_equal(
            mine.tensors[name].data, other.tensors[name].data
        )
        if not same:
            found.append(name)
    keys = (set(mine.metadata) | set(other.metadata)) - DIFFERENT
    found += [
        f"{key} ({str(mine.metadata.get(key))[:40]}, theirs {str(other.metadata.get(key))[:40]})"
        for key in sorted(keys)
        if mine.metadata.get(key) != other.metadata.get(key)
    ]
    return found


def measure(case: str, work: Path) -> dict[str, Any]:
    base = work / "base"
    model = GGUFModel(MergedCheckpoint(base), base, name=case)
    write(model, work / "ours-F16.gguf")
    write(model, work / "ours-BF16.gguf", "BF16")
    logits = trainer_logits(base)
    row: dict[str, Any] = {
        "logits": divergence(logits, file_logits(work / "ours-F16.gguf", SEQUENCES, threads=2)).mean
    }
    theirs = work / "theirs-F16.gguf"
    if theirs.exists() and differences(work / "ours-F16.gguf", theirs):
        row["theirs"] = divergence(logits, file_logits(theirs, SEQUENCES, threads=2)).mean
    adapter = make_adapter(base, work / "adapter")
    tuned = GGUFModel(MergedCheckpoint(base, Adapter(adapter)), base, name=case)
    adapted = trainer_logits(base, adapter)
    row["without"] = divergence(adapted, logits).mean
    merged = file_logits(write(tuned, work / "tuned.gguf"), SEQUENCES, threads=2)
    row["merged"] = divergence(adapted, merged).mean
    try:
        write_lora(work / "lora.gguf", tuned, case)
    except UsageError as error:  # what llama.cpp can't do at run time
        return {**row, "lora": error.message}
    with_lora = file_logits(work / "ours-F16.gguf", SEQUENCES, threads=2, lora=work / "lora.gguf")
    row["lora"] = f"{divergence(adapted, with_lora).mean:.1e}"
    return row


def compared(work: Path, kind: str) -> str:
    """'yes', or what is unlike llama.cpp's converter's file, or why there is none."""
    theirs = work / f"theirs-{kind}.gguf"
    error = theirs.with_name(theirs.name + ".error")
    if not theirs.exists():
        return f"- ({error.read_text()[:60]})" if error.exists() else "-"
    found = differences(work / f"ours-{kind}.gguf", theirs)
    return "; ".join(found[:6]) or "yes"


def trains(base: Path, work: Path, case: str) -> tuple[str, str]:
    """Does it train, and does what is trained convert? 'yes', or the error."""
    examples, template = work / "examples.jsonl", work / "template.jinja"
    answers = ("no", "yes")
    rows = ({"prompt": f"Is {n} odd?", "completion": answers[n % 2]} for n in range(40))
    examples.write_text("".join(json.dumps(row) + "\n" for row in rows))
    template.write_text(TEMPLATE)
    trained = _command(
        work, "train", "--run", case, "--base", str(base), "--file", str(examples),
        "--max-steps", str(STEPS), "--learning-rate", str(RATE), "--batch-size", "2",
        "--target-modules", "all-linear", "--chat-template", str(template), "--force",
    )  # fmt: skip
    if trained != "yes":
        return trained, "-"
    return trained, _command(work, "convert", "--run", case, "--quantization", "F16", "--force")


def _command(work: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "tuneserve", *arguments],
        cwd=work, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    if not done.returncode:
        return "yes"
    print(done.stderr[-1500:], file=sys.stderr)
    return " ".join(done.stderr.rpartition("error: ")[2].split())[:160]


def make_base(case: str, work: Path, tokenizer: Path, spm: Path) -> Path:
    """The case's checkpoint, with the tokenizer that llama.cpp's converter asks of its family."""
    if case in WITH_SENTENCEPIECE:
        return make_dense(work / "base", case, spm, SENTENCEPIECE_ROWS)
    if case == "glm4":
        tokenizer = with_glm_tokens(tokenizer, work / "tokenizer")
        return make_dense(work / "base", case, tokenizer, len(GLM_TOKENS) + SMALL["vocab_size"])
    base = make_dense(work / "base", case, tokenizer)
    if case in CLASSES:
        path = base / "tokenizer_config.json"
        write_json(path, {**read_json(path), "tokenizer_class": CLASSES[case]})
    return base


def attempt(case: str, work: Callable[..., Made], *given: Any) -> Made | None:
    """The result; None, and a line that says why, where it fails: the others are measured."""
    try:
        return work(*given)
    except Exception as error:
        print(f"| {case} | {type(error).__name__}: {error} {getattr(error, 'problems', '')} |")
        return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("source", type=Path)
    parser.add_argument("tokenizer", type=Path)
    parser.add_argument("spm", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--train", action="store_true")
    parser.add_argument("--only", nargs="*", default=list(DENSE))
    arguments = parser.parse_args()
    wanted: list[str] = []
    for case in arguments.only:
        work = arguments.work / case
        base: Path | None = work / "base"
        if not (work / "base" / "config.json").exists():
            base = attempt(case, make_base, case, work, arguments.tokenizer, arguments.spm)
        if base is not None:
            kinds = ("F16", "BF16")
            wanted += [
                f"{base}={work / f'theirs-{kind}.gguf'}={kind.lower()}"
                for kind in kinds
                if not list(work.glob(f"theirs-{kind}.gguf*"))
            ]
    subprocess.run(
        [sys.executable, "-c", _DRIVER, str(arguments.source), *wanted],
        capture_output=True, timeout=900, check=False,
    )  # fmt: skip
    print("| architecture | trains | converts | F16 | BF16 | logits | merged | LoRA (without) |")
    print("|---|---|---|---|---|---|---|---|")
    for case in arguments.only:
        work = arguments.work / case
        row = attempt(case, measure, case, work)
        if row is None:
            continue
        done = trains(work / "base", work, case) if arguments.train else ("", "")
        theirs = f" (theirs {row['theirs']:.1e})" if "theirs" in row else ""
        print(
            f"| {case} | {' | '.join(done)} | {compared(work, 'F16')} | {compared(work, 'BF16')} | "
            f"{row['logits']:.1e}{theirs} | {row['merged']:.1e} | {row['lora']} "
            f"({row['without']:.2f}) |",
            flush=True,
        )


if __name__ == "__main__":
    main()
