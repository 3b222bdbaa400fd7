"""Qwen2 (Qwen2.5, R1-Distill-Qwen) and Qwen3, dense."""

from __future__ import annotations

from typing import Any

from tuneserve.gguf.architectures import common
from tuneserve.gguf.architectures.table import Architecture, Config, Entries
from tuneserve.gguf.reader import ArchitectureMetadata


def qwen2_config(metadata: ArchitectureMetadata) -> dict[str, Any]:
    """Its heads always share the hidden size out."""
    config = common.shape_config(metadata)
    del config["head_dim"]
    return config


def qwen2_metadata(config: Config) -> Entries:
    return [*common.usual_metadata(config), *common.given_head_size(config)]


def qwen3_metadata(config: Config) -> Entries:
    return [*common.usual_metadata(config), *common.head_size_metadata(config)]


QWEN2 = Architecture(
    gguf_name="qwen2",
    hf_names=("Qwen2ForCausalLM",),
    tensors=common.TENSORS,
    layer_tensors=common.LAYER_TENSORS,
    to_config=qwen2_config,
    to_metadata=qwen2_metadata,
    constants={"use_sliding_window": False},
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
    to_config=common.shape_config,
    to_metadata=qwen3_metadata,
    constants={"attention_bias": False, "use_sliding_window": False},
)
