"""Through the command line, on tiny random checkpoints: `train` two steps on the CPU, `convert`,
and every check of the verification passes.

A mixture of experts with an adapter on its experts, and the text model of a Gemma 3 with eyes.
About a minute.

    python -m benchmarks.convert_end_to_end
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tuneserve.base.resolve import demo_gguf
from tuneserve.base.tokenizer import write_tokenizer
from tuneserve.gguf.reader import GGUFFile

SHAPE: dict[str, Any] = {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 512, "vocab_size": 49152,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2, "initializer_range": 0.1,
}  # fmt: skip
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32,
           "norm_topk_prob": True}  # fmt: skip
EYES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1,
        "num_attention_heads": 2, "image_size": 28, "patch_size": 14}  # fmt: skip
RECIPE = """
[model]
base = "base"
[data]
file = "examples.jsonl"
test_fraction = 0.2
[train]
max_steps = 2
learning_rate = 5e-3
{train}
[convert]
quantization = "Q8_0"
"""
CASES: dict[str, tuple[str, dict[str, Any], str]] = {
    "Qwen3-MoE, LoRA on experts": (
        "Qwen3MoeForCausalLM", {**SHAPE, **EXPERTS},
        'target_modules = ["q_proj", "v_proj", "gate_up_proj", "down_proj"]\ndropout = 0',
    ),
    "Gemma 3 with eyes": (
        "Gemma3ForConditionalGeneration",
        {"text_config": {**SHAPE, "sliding_window": 64, "query_pre_attn_scalar": 16},
         "vision_config": EYES, "mm_tokens_per_image": 1, "bos_token_id": 1, "eos_token_id": 2},
        "",
    ),
}  # fmt: skip


def make(folder: Path, model_class: str, config: dict[str, Any], train: str) -> None:
    """Base, examples and recipe."""
    import torch
    import transformers

    torch.manual_seed(0)
    cls = getattr(transformers, model_class)
    cls(cls.config_class(**config)).to(torch.bfloat16).save_pretrained(folder / "base")
    write_tokenizer(GGUFFile(demo_gguf()), folder / "base")
    rows = [
        [{"role": "user", "content": f"What is {n} plus {n}?"},
         {"role": "assistant", "content": str(2 * n)}]
        for n in range(40)
    ]  # fmt: skip
    lines = [json.dumps({"messages": row}) + "\n" for row in rows]
    (folder / "examples.jsonl").write_text("".join(lines))
    (folder / "recipe.toml").write_text(RECIPE.format(train=train))


def main() -> int:
    failed = 0
    for case, (model_class, config, train) in CASES.items():
        with TemporaryDirectory() as name:
            make(Path(name), model_class, config, train)
            for command in (["train", "--config", "recipe.toml", "--run", "x"],
                            ["convert", "--run", "x"]):  # fmt: skip
                started = time.monotonic()
                done = subprocess.run([sys.executable, "-m", "tuneserve", *command], cwd=name,
                                      capture_output=True, text=True, check=False)  # fmt: skip
                seconds = time.monotonic() - started
                print(f"{case}: {command[0]}: exit code {done.returncode}, {seconds:.0f} s")
                if done.returncode:
                    failed += 1
                    print(done.stderr)
                    break
    return failed


if __name__ == "__main__":
    sys.exit(main())
