"""Mixtures of experts: does each family train, convert and compute what transformers computes?

Tiny random checkpoints with a real vocabulary (tests/convert/gguf/test_experts.py). For each:

- trains, converts: as benchmarks/convert_architectures.py does it (--train; on a CPU);
- bytes: our F16 GGUF against llama.cpp's converter's, tensors and metadata;
- F16, F32: mean KL divergence (nats a position) of llama.cpp on our GGUF from transformers.
  llama.cpp rounds what it multiplies with an F16 matrix; a router may then choose another expert;
- merged: largest difference of a merged weight from PEFT's own merge of an adapter on experts;
- LoRA: KL divergence of base and LoRA GGUF from PEFT's logits, and of the base alone.

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
from convert_architectures import differences, trains

from tests.convert.gguf.test_exact import DRIVER
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
from tuneserve.errors import UsageError
from tuneserve.safetensors import checkpoint_tensors


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
    lora: str | None = None
    try:
        write_lora(work / "lora.gguf", GGUFModel(checkpoint, adapter, name=case), case)
    except UsageError as error:  # what llama.cpp can't do at run time
        lora = error.message

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
        "bytes": against_converter(ours, base, source),
        "f16": apart(ours, expected),
        "f32": apart(work / "f32.gguf", expected),
        "merged": merged,
        "lora": lora or f"{apart(ours, trained, work / 'lora.gguf'):.1e}",
        "without": divergence(trained, expected).mean,
    }


def against_converter(ours: Path, base: Path, source: Path) -> str:
    """'yes', what differs from llama.cpp's converter's file, or why there is none."""
    theirs = ours.with_name("theirs.gguf")
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, str(source), f"{base}={theirs}=f16"],
        capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    if done.returncode:
        return f"- ({done.stderr.strip().splitlines()[-1][:60]})"
    return "; ".join(differences(ours, theirs)[:6]) or "yes"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("source", type=Path)
    parser.add_argument("tokenizer", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--train", action="store_true")
    parser.add_argument("--only", nargs="*", default=list(MIXTURES))
    arguments = parser.parse_args()
    found: dict[str, dict[str, Any]] = {}
    print("| family | trains | converts | bytes | F16 | F32 | merged | LoRA (without) |")
    print("|---|---|---|---|---|---|---|---|")
    for case in arguments.only:
        work = arguments.work / case
        work.mkdir(parents=True)
        row = measure(case, work, arguments.tokenizer, arguments.source)
        done = trains(work / "base", work, case) if arguments.train else ("", "")
        row["trains"], row["converts"] = done
        found[case] = row
        print(
            f"| {case} | {' | '.join(done)} | {row['bytes']} | {row['f16']:.1e} | "
            f"{row['f32']:.1e} | {row['merged']:.1e} | {row['lora']} ({row['without']:.2f}) |",
            flush=True,
        )
    print(json.dumps(found))


if __name__ == "__main__":
    main()
