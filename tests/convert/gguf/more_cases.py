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
}  # fmt: skip
MORE_VISION: dict[str, dict[str, Any]] = {}
MORE_TEXT_TYPES: dict[str, str] = {}
_PUBLISHED = {"linear_attention": "mamba", "full_attention": "attention"}


def as_published(directory: Path, case: str) -> None:
    """Change config.json of a case from what transformers writes to what is published."""
    if case.startswith("granite-4"):
        config = read_json(directory / "config.json")
        kinds = [_PUBLISHED[kind] for kind in config["layer_types"]]
        write_json(directory / "config.json", {**config, "layer_types": kinds})
