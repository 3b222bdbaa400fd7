"""Qwen2 (Qwen2.5, R1-Distill-Qwen) and Qwen3, dense."""

from __future__ import annotations

from typing import Any

from tuneserve.gguf.architectures import common
from tuneserve.gguf.architectures.table import Architecture, Config, Metadata


def qwen2_config(metadata: Metadata) -> dict[str, Any]:
    """config.json of a Qwen2 GGUF; its heads always share the hidden size out."""
    config = {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        **common.shape_config(metadata),
        "use_sliding_window": False,
    }
    del config["head_dim"]
    return config


def qwen2_metadata(config: Config) -> common.Entries:
    return [
        *common.shape_metadata(config),
        *common.scaling_metadata(config),
        *common.rope_and_norm_metadata(config),
        *(common.head_size_metadata(config) if config.get("head_dim") else []),
    ]


def qwen3_config(metadata: Metadata) -> dict[str, Any]:
    return {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        **common.shape_config(metadata),
        "attention_bias": False,
        "use_sliding_window": False,
    }


def qwen3_metadata(config: Config) -> common.Entries:
    return [
        *common.shape_metadata(config),
        *common.scaling_metadata(config),
        *common.rope_and_norm_metadata(config),
        *common.head_size_metadata(config),
    ]


QWEN2 = Architecture(
    gguf_name="qwen2",
    hf_names=("Qwen2ForCausalLM",),
    tensors=common.TENSORS,
    layer_tensors=common.LAYER_TENSORS,
    to_config=qwen2_config,
    to_metadata=qwen2_metadata,
)

QWEN3 = Architecture(
    gguf_name="qwen3",
    hf_names=("Qwen3ForCausalLM",),
    tensors=common.TENSORS,
    layer_tensors={
        **common.LAYER_TENSORS,
        "attn_q_norm": "self_attn.q_norm",
        "attn_k_norm": "self_attn.k_norm",
    },
    to_config=qwen3_config,
    to_metadata=qwen3_metadata,
)
