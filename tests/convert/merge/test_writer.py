"""The merged Hugging Face checkpoint: transformers loads it and computes what was trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.convert.convert_support import Trained, make_adapter, make_base
from tuneserve.convert.merge.adapter import Adapter
from tuneserve.convert.merge.checkpoint import MergedCheckpoint
from tuneserve.convert.merge.writer import checkpoint_bytes, write_checkpoint
from tuneserve.convert.verify.tensors import check_merged_checkpoint


@pytest.mark.parametrize(
    ("base_changes", "lora"),
    [({}, {}), ({}, {"target_modules": ["embed_tokens", "q_proj"]}), ({"dtype": "bfloat16"}, {})],
)
def test_loads_with_equal_logits(
    tokenizer_directory: Path, tmp_path: Path, base_changes: dict[str, Any], lora: dict[str, Any]
) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if "dtype" in base_changes:
        base_changes = {"dtype": torch.bfloat16}
    base = make_base(tmp_path / "base", tokenizer_directory, **base_changes)
    adapter = make_adapter(tmp_path / "adapter", base, tokenizer_directory, **lora)
    merged = MergedCheckpoint(base, Adapter(adapter))
    target = tmp_path / "merged"
    write_checkpoint(target, merged, adapter, threads=2, shard_bytes=2_000_000)
    weights = list(target.glob("model-*.safetensors"))
    assert len(weights) > 1
    assert sum(path.stat().st_size for path in weights) >= checkpoint_bytes(merged)

    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    adapted = PeftModel.from_pretrained(plain, adapter).eval()
    loaded = AutoModelForCausalLM.from_pretrained(target, dtype=torch.float32)
    ids = torch.tensor([[5, 17, 300, 4, 99, 230, 1]])
    with torch.no_grad():
        expected, found = adapted(ids).logits.numpy(), loaded(ids).logits.numpy()
    tolerance = 1e-1 if base_changes else 1e-4  # bfloat16 keeps 8 bits
    np.testing.assert_allclose(found, expected, atol=tolerance, rtol=tolerance)
    assert AutoTokenizer.from_pretrained(target).chat_template
    assert json.loads((target / "config.json").read_text())["tie_word_embeddings"] is (not lora)


def test_one_file_where_it_fits(trained: Trained, tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "m", trained.merged(), trained.adapter, threads=1)
    assert [path.name for path in (tmp_path / "m").glob("*.safetensors*")] == ["model.safetensors"]


def test_a_damaged_checkpoint_is_told(trained: Trained, tmp_path: Path) -> None:
    merged = trained.merged()
    write_checkpoint(tmp_path / "m", merged, trained.adapter, threads=1)
    assert check_merged_checkpoint(tmp_path / "m", merged, threads=1).passed
    base = MergedCheckpoint(trained.base)
    write_checkpoint(tmp_path / "base", base, trained.adapter, threads=1)
    check = check_merged_checkpoint(tmp_path / "base", merged, threads=1)
    assert not check.passed
    assert check.figures["wrong"] == 21
