"""GGUFs of other architectures than Llama: imported, and proved by logits, or refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.base.gguf_support import HIDDEN, TOKENS, write_tiny
from tuneserve.base import import_gguf
from tuneserve.errors import UsageError
from tuneserve.gguf.architectures import by_hf_name
from tuneserve.gguf.reader import GGUFFile

_WINDOW = {"attention.sliding_window": 32}
_CAPS = {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 2.0}
_COHERE = {
    "attention.layer_norm_rms_epsilon": None, "attention.layer_norm_epsilon": 1e-5,
    "logit_scale": 0.25, "rope.scaling.type": "none",
}  # fmt: skip
_SCALES = {
    "attention.scale": 0.2, "embedding_scale": 3.0, "residual_scale": 0.7, "logit_scale": 2.0,
}  # fmt: skip
_NO_SIZES = {"attention.key_length": None, "attention.value_length": None}
_QK_NORMS = ["blk.0.attn_q_norm.weight", "blk.0.attn_k_norm.weight",
             "blk.1.attn_q_norm.weight", "blk.1.attn_k_norm.weight"]  # fmt: skip
# llama.cpp asks for an output matrix of OLMo's own.
_OUTPUT = {
    "output.weight": np.random.default_rng(2).normal(0, 0.15, (TOKENS, HIDDEN)).astype(np.float32)
}
# name: (what is written, the class, what config.json says)
IMPORTED: dict[str, tuple[dict[str, Any], str, dict[str, Any]]] = {
    "smollm3": ({"architecture": "smollm3", "layers": 4}, "SmolLM3ForCausalLM", {}),
    "granite": (
        {"architecture": "granite", "entries": _SCALES | _NO_SIZES}, "GraniteForCausalLM",
        {"attention_multiplier": 0.2, "logits_scaling": 2.0},
    ),
    "olmo2": (
        {"architecture": "olmo2", "tensors": _OUTPUT}, "Olmo2ForCausalLM",
        {"tie_word_embeddings": False},
    ),
    "olmo3": (
        {"architecture": "olmo2", "layers": 4, "entries": _WINDOW, "tensors": _OUTPUT},
        "Olmo3ForCausalLM", {"layer_types": ["sliding_attention"] * 3 + ["full_attention"]},
    ),
    "cohere": (
        {"architecture": "command-r", "entries": _COHERE, "without": _QK_NORMS},
        "CohereForCausalLM", {"use_qk_norm": False, "logit_scale": 0.25},
    ),
    "cohere2": (
        {"architecture": "cohere2", "layers": 4, "entries": _COHERE | _WINDOW},
        "Cohere2ForCausalLM", {"sliding_window": 32, "layer_norm_eps": 1e-5},
    ),
    "gemma": ({"architecture": "gemma"}, "GemmaForCausalLM", {"tie_word_embeddings": True}),
    "gemma2": (
        {"architecture": "gemma2", "entries": _WINDOW | _CAPS}, "Gemma2ForCausalLM",
        {"layer_types": ["sliding_attention", "full_attention"], "query_pre_attn_scalar": 16},
    ),
}  # fmt: skip


@pytest.mark.slow  # transformers computes in a process of its own, for each
@pytest.mark.parametrize("name", IMPORTED)
def test_imported_and_proved_by_logits(demo: GGUFFile, tmp_path: Path, name: str) -> None:
    made, architecture, expected = IMPORTED[name]
    target = import_gguf(write_tiny(tmp_path / "x.gguf", demo, **made), tmp_path / "out")
    config = json.loads((target / "config.json").read_text())
    assert config["architectures"] == [architecture]
    assert {key: config[key] for key in expected} == expected


@pytest.mark.parametrize(
    ("architecture", "told"),
    [
        ("qwen3moe", "a GGUF with a mixture of experts can't be imported"),
        ("glm4", "a GGUF of this architecture can be made, but not imported"),
    ],
)
def test_refused_by_name(demo: GGUFFile, tmp_path: Path, architecture: str, told: str) -> None:
    source = write_tiny(tmp_path / "x.gguf", demo, architecture=architecture)
    with pytest.raises(UsageError, match=told) as caught:
        import_gguf(source, tmp_path / "out")
    assert "Hugging Face checkpoint" in caught.value.render()
    assert not (tmp_path / "out").exists()


def test_olmo_with_two_rope_bases_is_refused(demo: GGUFFile, tmp_path: Path) -> None:
    """llama.cpp computes all its layers with one, in silence."""
    entries = _WINDOW | {"rope.freq_base_swa": 500.0}
    source = write_tiny(tmp_path / "x.gguf", demo, architecture="olmo2", entries=entries)
    with pytest.raises(UsageError, match="two RoPE bases"):
        import_gguf(source, tmp_path / "out")
    bases = {"full_attention": {"rope_theta": 10000.0}, "sliding_attention": {"rope_theta": 500.0}}
    with pytest.raises(UsageError, match="10000 and 500"):
        by_hf_name("Olmo3ForCausalLM").to_metadata({"rope_parameters": bases})
