"""The README's recipe for DeepSeek-R1-Distill-Llama, on a tiny checkpoint that carries what public
copies of it carry: the class LlamaTokenizerFast, a pad token of its own, byte-level BPE of Llama 3
with DeepSeek's special tokens, and the template."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.convert.convert_support import make_base
from tests.gguf.cut_vocabulary import cut_vocabulary
from tests.support import ModulePaths, Runner, running_server
from tuneserve.base.tokenizer import write_tokenizer
from tuneserve.gguf.reader import GGUFFile

SPECIAL = (
    "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>", "<think>",
    "</think>", "<｜▁pad▁｜>", "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>",
    "<|finetune_right_pad_id|>",
)  # fmt: skip
PLAIN = ("<｜User｜>", "<｜Assistant｜>", "<think>", "</think>")
"""Added tokens that are not flagged as special in the public file."""


@pytest.fixture(scope="module")
def r1(llama_cpp_source: Path, module_paths: ModulePaths) -> Path:
    models = llama_cpp_source / "models"
    tokenizer = module_paths.mktemp("tokenizer")
    cut = cut_vocabulary(
        models / "ggml-vocab-llama-bpe.gguf", tokenizer / "cut.gguf", special=SPECIAL,
        add_bos_token=("BOOL", True),
    )  # fmt: skip
    write_tokenizer(GGUFFile(cut), tokenizer)
    content = json.loads((tokenizer / "tokenizer.json").read_text())
    for entry in content["added_tokens"]:
        entry["special"] = entry["content"] not in PLAIN
    (tokenizer / "tokenizer.json").write_text(json.dumps(content))
    (tokenizer / "tokenizer_config.json").write_text(
        json.dumps(
            {
                "tokenizer_class": "LlamaTokenizerFast",
                "add_bos_token": True, "add_eos_token": False, "legacy": True,
                "bos_token": SPECIAL[0], "eos_token": SPECIAL[1],
                "pad_token": "<|finetune_right_pad_id|>", "unk_token": None,
                "sp_model_kwargs": {}, "use_default_system_prompt": False,
                "model_max_length": 131072, "padding_side": "left",
                "clean_up_tokenization_spaces": False,
            }
        )
    )  # fmt: skip
    shutil.copy(
        models / "templates" / "deepseek-ai-DeepSeek-R1-Distill-Llama-8B.jinja",
        tokenizer / "chat_template.jinja",
    )
    ids = {entry["content"]: entry["id"] for entry in content["added_tokens"]}
    return make_base(
        module_paths.mktemp("r1") / "base", tokenizer, vocab_size=max(ids.values()) + 1,
        tie_word_embeddings=False, num_attention_heads=2, num_key_value_heads=1,
        bos_token_id=ids[SPECIAL[0]], eos_token_id=ids[SPECIAL[1]],
        pad_token_id=ids["<|finetune_right_pad_id|>"],
        rope_scaling={
            "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
    )  # fmt: skip


def checked(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.slow  # trains, converts and serves
def test_it_trains_converts_and_answers(r1: Path, tuneserve: Runner, tmp_path: Path) -> None:
    import openai

    examples = [
        {
            "messages": [
                {"role": "user", "content": f"What don't  you add to {n}?\n\n  x = [{n}]"},
                {"role": "assistant", "content": f"{n * 1111} isn't {n}."},
            ]
        }
        for n in range(20)
    ]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in examples))
    common = (
        "--base",
        str(r1),
        "--file",
        "data.jsonl",
        "--near-duplicates",
        "1",
        "--eval-fraction",
        "0.2",
        "--test-fraction",
        "0.2",
    )
    shown = checked(tuneserve("preview", *common, "-n", "1", cwd=tmp_path))
    assert "isn't" in shown
    checked(
        tuneserve(
            "train", *common, "--run", "r1", "--max-steps", "2", "--evaluations", "0",
            "--compile", "false", "--max-seq-length", "128", "--vram", "8", cwd=tmp_path,
        )
    )  # fmt: skip
    adapter = tmp_path / "runs" / "r1" / "adapter"
    saved = json.loads((adapter / "tokenizer_config.json").read_text())
    assert saved["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert saved["pad_token"] == "<|finetune_right_pad_id|>"
    given, kept = (json.loads((folder / "tokenizer.json").read_text()) for folder in (r1, adapter))
    for part in ("normalizer", "pre_tokenizer", "model", "added_tokens"):
        assert given[part] == kept[part], part
    checked(tuneserve("convert", "--run", "r1", "--quantization", "Q8_0", cwd=tmp_path))
    made = tmp_path / "runs" / "r1" / "gguf" / "r1-Q8_0.gguf"
    assert GGUFFile(made).get("tokenizer.ggml.pre") == "llama-bpe"
    with running_server(tmp_path / "log", str(made), "--name", "r1", "--ctx", "256") as running:
        client = openai.OpenAI(base_url=f"{running.url}/v1", api_key="none", timeout=60)
        answer = client.chat.completions.create(
            model="r1", messages=[{"role": "user", "content": "Hi"}], max_tokens=4
        )
    assert answer.usage is not None
    assert answer.usage.completion_tokens > 0
