"""More architectures for test_dense.py and test_more.py: hybrids with a state space, and mixtures
and models with eyes of the families there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tuneserve.files import read_json, write_json

_GRANITE4: dict[str, Any] = {
    "attention_multiplier": 0.2, "embedding_multiplier": 3.0, "residual_multiplier": 0.7,
    "logits_scaling": 2.0, "shared_intermediate_size": 96, "num_local_experts": 0,
    "num_experts_per_tok": 0, "mamba_n_heads": 8, "mamba_d_head": 16, "mamba_d_state": 16,
    "tie_word_embeddings": True,
}  # fmt: skip
_STATE_LAYERS = {"layer_types": ["linear_attention", "full_attention", *["linear_attention"] * 2]}
_MROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}
_QWEN35_MOE: dict[str, Any] = {
    "head_dim": 32, "linear_num_key_heads": 2, "linear_num_value_heads": 4,
    "linear_key_head_dim": 16, "linear_value_head_dim": 16, "linear_conv_kernel_dim": 4,
    "layer_types": [*["linear_attention"] * 3, "full_attention"], "full_attention_interval": 4,
    "rope_parameters": {**_MROPE, "mrope_section": [2, 1, 1], "partial_rotary_factor": 0.25},
    "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 48,
}  # fmt: skip
# name: (model class, config; of a model with eyes that of its text model, and the whole one's)
MORE: dict[str, tuple[str, dict[str, Any]]] = {
    "granite-4": ("GraniteMoeHybridForCausalLM", {
        **_GRANITE4, "layer_types": ["full_attention"] * 4, "position_embedding_type": "rope",
    }),
    "granite-4-h": ("GraniteMoeHybridForCausalLM", {**_GRANITE4, **_STATE_LAYERS}),
    "granite-4-h-rope": ("GraniteMoeHybridForCausalLM", {
        **_GRANITE4, **_STATE_LAYERS, "position_embedding_type": "rope",
    }),
    "granite-4-h-moe": ("GraniteMoeHybridForCausalLM", {
        **_GRANITE4, **_STATE_LAYERS, "num_local_experts": 4, "num_experts_per_tok": 2,
        "shared_intermediate_size": 48,
    }),
    "qwen2-vl": ("Qwen2VLForConditionalGeneration", {"rope_parameters": _MROPE}),
    "qwen2.5-vl": ("Qwen2_5_VLForConditionalGeneration", {"rope_parameters": _MROPE}),
    "qwen3-vl": ("Qwen3VLForConditionalGeneration", {
        "head_dim": 32,
        "rope_parameters": {**_MROPE, "mrope_section": [6, 5, 5], "mrope_interleaved": True},
    }),
    "qwen3.5-moe": ("Qwen3_5MoeForCausalLM", _QWEN35_MOE),
    "qwen3.5-moe-shell": ("Qwen3_5MoeForConditionalGeneration", _QWEN35_MOE),
    "lfm2-moe": ("Lfm2MoeForCausalLM", {
        "layer_types": ["conv", "full_attention", "conv", "conv"], "num_dense_layers": 2,
        "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32,
        "conv_L_cache": 3, "tie_word_embeddings": True,
    }),
    "ernie-4.5": ("Ernie4_5ForCausalLM", {"head_dim": 32}),
    "stablelm": ("StableLmForCausalLM", {"partial_rotary_factor": 0.25}),
    "stablelm-parallel": ("StableLmForCausalLM", {
        "use_parallel_residual": True, "use_qkv_bias": True,
    }),
}  # fmt: skip
_EYES = {"depth": 1, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2,
         "out_hidden_size": 64}  # fmt: skip
MORE_VISION: dict[str, dict[str, Any]] = {
    "qwen2-vl": {"vision_config": {"depth": 1, "embed_dim": 32, "hidden_size": 64, "num_heads": 2}},
    "qwen2.5-vl": {"vision_config": _EYES},
    "qwen3.5-moe-shell": {"vision_config": _EYES},
    "qwen3-vl": {"vision_config": {**_EYES, "deepstack_visual_indexes": [0]}},
}  # fmt: skip
MORE_TEXT_TYPES = {
    "qwen2-vl": "qwen2_vl_text", "qwen2.5-vl": "qwen2_5_vl_text", "qwen3-vl": "qwen3_vl_text",
    "qwen3.5-moe-shell": "qwen3_5_moe_text",
}  # fmt: skip
_PUBLISHED = {"linear_attention": "mamba", "full_attention": "attention"}


def as_published(directory: Path, case: str) -> None:
    """Change config.json of a case from what transformers writes to what is published."""
    config = read_json(directory / "config.json")
    if case.startswith("qwen3.5-moe"):
        config.get("text_config", config).pop("intermediate_size", None)
        write_json(directory / "config.json", config)
    if case.startswith("granite-4"):
        kinds = [_PUBLISHED[kind] for kind in config["layer_types"]]
        write_json(directory / "config.json", {**config, "layer_types": kinds})
