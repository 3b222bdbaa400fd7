"""`lora_bias` on a base without biases: they are biases of the GGUF where llama.cpp reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.convert.convert_support import PROJECTIONS, make_adapted
from tests.convert.gguf.test_exact import GEMMA, make_checkpoint
from tuneserve.convert.gguf.model import GGUFModel
from tuneserve.convert.merge.adapter import Adapter
from tuneserve.convert.merge.checkpoint import MergedCheckpoint
from tuneserve.convert.merge.writer import check_writable
from tuneserve.convert.quantize import write_quantized
from tuneserve.convert.verify.logits import file_logits
from tuneserve.convert.verify.reference import reference_logits
from tuneserve.divergence import divergence
from tuneserve.errors import UsageError

IDS = [5, 17, 300, 4, 99, 230, 1]
QKV = ["q_proj", "k_proj", "v_proj"]
CASES: dict[str, tuple[str, dict[str, Any], list[str]]] = {
    "llama": ("LlamaForCausalLM", {}, PROJECTIONS),
    "mistral": ("MistralForCausalLM", {"sliding_window": None}, PROJECTIONS),
    "qwen2": ("Qwen2ForCausalLM", {}, ["q_proj"]),
    "qwen3": ("Qwen3ForCausalLM", {"head_dim": 32}, QKV),
    "gemma3": ("Gemma3ForCausalLM", GEMMA, ["v_proj"]),
    "phi3": ("Phi3ForCausalLM", {"sliding_window": None}, ["qkv_proj"]),
}


@pytest.mark.parametrize("case", CASES)
def test_becomes_a_bias(tokenizer_directory: Path, tmp_path: Path, case: str) -> None:
    import numpy as np
    import torch

    model_class, changes, targets = CASES[case]
    base = make_checkpoint(tmp_path / "base", model_class, tokenizer_directory, changes)
    adapter = tmp_path / "adapter"
    peft = make_adapted(
        adapter, base, tokenizer_directory, target_modules=targets, lora_bias=True
    )  # fmt: skip
    tuned = GGUFModel(MergedCheckpoint(base, Adapter(adapter)), adapter, name="x")
    write_quantized(tuned, tmp_path / "x.gguf", "F16", threads=1)
    with torch.no_grad():
        expected = peft.eval()(torch.tensor([IDS])).logits[0].float().numpy()
    (found,) = file_logits(tmp_path / "x.gguf", [IDS], threads=1)
    assert divergence([expected], [found]).mean < 1e-5
    places = [np.arange(len(IDS))]
    _, adapted, merged = reference_logits(tuned, adapter, [IDS], places, threads=1)
    assert divergence(adapted, merged).mean < 1e-9
    np.testing.assert_allclose(merged[0], expected, atol=2e-3)
    if case == "qwen2":
        assert not tuned.checkpoint.added_biases
        check_writable(tuned.checkpoint)
    else:
        with pytest.raises(UsageError, match=r"no place for the biases of this adapter"):
            check_writable(tuned.checkpoint)


@pytest.mark.parametrize(
    ("case", "target"), [("qwen3", "o_proj"), ("gemma3", "down_proj"), ("qwen2", "up_proj")]
)
def test_is_refused_where_llama_cpp_reads_none(
    tokenizer_directory: Path, tmp_path: Path, case: str, target: str
) -> None:
    model_class, changes, _ = CASES[case]
    base = make_checkpoint(tmp_path / "base", model_class, tokenizer_directory, changes)
    adapter = tmp_path / "adapter"
    make_adapted(adapter, base, tokenizer_directory, target_modules=[target], lora_bias=True)
    with pytest.raises(UsageError, match=r"without these biases of the adapter") as caught:
        GGUFModel(MergedCheckpoint(base, Adapter(adapter)), adapter, name="x")
    assert any(target in problem for problem in caught.value.problems)
    assert "q_proj, k_proj, v_proj" in caught.value.hint
