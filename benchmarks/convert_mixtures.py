"""Mixtures of experts: does each family train, convert and compute what transformers computes?

Tiny random checkpoints with a real vocabulary (tests/convert/gguf/test_experts.py). For each:

- bytes: our F16 GGUF against llama.cpp's converter's, tensors and metadata;
- F16, F32: mean KL divergence (nats a position) of llama.cpp on our GGUF from transformers.
  llama.cpp rounds what it multiplies with an F16 matrix; a router may then choose another expert;
- merged: largest difference of a merged weight from PEFT's own merge of an adapter on experts;
- LoRA: KL divergence of base and LoRA GGUF from PEFT's logits, and of the base alone;
- trains: two steps of `tuneserve train` with target_modules = all-linear (--train; on a CPU).

    python benchmarks/convert_mixtures.py LLAMA_CPP_SOURCE TOKENIZER --work /tmp/mixtures [--train]

TOKENIZER is a directory with tokenizer.json. Prints a table; the last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from tests.convert.gguf.test_exact import DIFFERENT, DRIVER
from tests.convert.gguf.test_experts import (
    MIXTURES,
    SEQUENCES,
    make_expert_adapter,
    make_mixture,
    write,
)
from tuneserve.convert.gguf.lora import write_lora
from tuneserve.convert.gguf.model import GGUFModel
from tuneserve.convert.gguf.quantization import Choice
from tuneserve.convert.gguf.writer import write_gguf
from tuneserve.convert.merge.adapter import Adapter
from tuneserve.convert.merge.checkpoint import MergedCheckpoint
from tuneserve.convert.verify.logits import file_logits
from tuneserve.divergence import divergence
from tuneserve.gguf.reader import GGUFFile
from tuneserve.safetensors import checkpoint_tensors

TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def measure(case: str, work: Path, tokenizer: Path, source: Path) -> dict[str, Any]:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = make_mixture(work / "base", case, tokenizer)
    adapter = make_expert_adapter(work / "adapter", case, base, tokenizer)
    plain = GGUFModel(MergedCheckpoint(base), base, name=case)
    checkpoint = MergedCheckpoint(base, Adapter(adapter))
    ours = write(plain, work / "ours.gguf")
    exact = [Choice(choice.name, "F32") for choice in plain.choices("F16")]
    write_gguf(work / "f32.gguf", plain.metadata("F16"), plain.sources, exact, threads=2)
    write_lora(work / "lora.gguf", GGUFModel(checkpoint, adapter, name=case), case)

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
    with torch.no_grad():
        expected = [model(torch.tensor([ids])).logits[0].numpy() for ids in SEQUENCES]
        adapted = PeftModel.from_pretrained(model, adapter).eval()
        trained = [adapted(torch.tensor([ids])).logits[0].numpy() for ids in SEQUENCES]
    adapted.merge_and_unload().save_pretrained(work / "merged")
    theirs = checkpoint_tensors(work / "merged")
    merged = max(
        float(np.abs(rows - theirs[name].rows().reshape(rows.shape)).max())
        for name in checkpoint.names
        for rows in [checkpoint.rows(name)]
    )

    def apart(path: Path, reference: list[Any], lora: Path | None = None) -> float:
        return divergence(reference, file_logits(path, SEQUENCES, threads=2, lora=lora)).mean

    return {
        "bytes": equals_converter(ours, base, source),
        "f16": apart(ours, expected),
        "f32": apart(work / "f32.gguf", expected),
        "merged": merged,
        "lora": apart(ours, trained, work / "lora.gguf"),
        "without": divergence(trained, expected).mean,
    }


def equals_converter(ours: Path, base: Path, source: Path) -> bool:
    theirs = ours.with_name("theirs.gguf")
    subprocess.run(
        [sys.executable, "-c", DRIVER, str(source), f"{base}={theirs}=f16"],
        capture_output=True, timeout=600, check=True,
    )  # fmt: skip
    mine, other = GGUFFile(ours), GGUFFile(theirs)
    same = {k: v for k, v in mine.metadata.items() if k not in DIFFERENT} == {
        k: v for k, v in other.metadata.items() if k not in DIFFERENT
    }
    return (
        same
        and set(mine.tensors) == set(other.tensors)
        and all(
            mine.type_name(name) == other.type_name(name)
            and np.array_equal(mine.tensors[name].data, other.tensors[name].data)
            for name in other.tensors
        )
    )


def trains(case: str, base: Path, work: Path) -> bool:
    examples = work / "examples.jsonl"
    rows = (
        {"prompt": f"What is {n} plus {n}?", "completion": str(2 * n)} for n in range(60)
    )  # fmt: skip
    examples.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (work / "template.jinja").write_text(TEMPLATE)
    done = subprocess.run(
        [sys.executable, "-m", "tuneserve", "train", "--run", case, "--base", str(base), "--file",
         str(examples), "--max-steps", "2", "--batch-size", "2", "--target-modules", "all-linear",
         "--chat-template", str(work / "template.jinja")],
        cwd=work, capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip
    if done.returncode:
        print(done.stderr[-1500:], file=sys.stderr)
    return done.returncode == 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("source", type=Path)
    parser.add_argument("tokenizer", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--train", action="store_true")
    parser.add_argument("--only", nargs="*", default=list(MIXTURES))
    arguments = parser.parse_args()
    found: dict[str, dict[str, Any]] = {}
    print("| family | trains | bytes | F16 | F32 | merged | LoRA (without) |")
    print("|---|---|---|---|---|---|---|")
    for case in arguments.only:
        work = arguments.work / case
        work.mkdir(parents=True)
        row = measure(case, work, arguments.tokenizer, arguments.source)
        row["trains"] = trains(case, work / "base", work) if arguments.train else None
        found[case] = row
        print(
            f"| {case} | {row['trains']} | {row['bytes']} | {row['f16']:.1e} | {row['f32']:.1e} | "
            f"{row['merged']:.1e} | {row['lora']:.1e} ({row['without']:.2f}) |",
            flush=True,
        )
    print(json.dumps(found))


if __name__ == "__main__":
    main()
