"""Phi-3 and Phi-4 (dense): query, key and value in one matrix, gate and up in one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tuneserve.arrays import Floats
from tuneserve.errors import UsageError
from tuneserve.gguf.architectures import common, longrope
from tuneserve.gguf.architectures.table import Architecture, Config, Entries
from tuneserve.gguf.reader import ArchitectureMetadata


def rope_dimensions(config: Config) -> int:
    return int(common.partial_rotary(config) * config["hidden_size"]) // int(
        config["num_attention_heads"]
    )


def to_config(metadata: ArchitectureMetadata) -> dict[str, Any]:
    config = common.shape_config(metadata)
    del config["head_dim"]
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    return {
        **config,
        "partial_rotary_factor": int(metadata["rope.dimension_count"]) * heads / hidden,
        "original_max_position_embeddings": int(metadata["rope.scaling.original_context_length"]),
        "sliding_window": int(metadata.get("attention.sliding_window", 0)) or None,
    }


def to_metadata(config: Config) -> Entries:
    entries: Entries = [
        ("context_length", "uint32", config["max_position_embeddings"]),
        ("rope.scaling.original_context_length", "uint32", longrope.original_context(config)),
        ("embedding_length", "uint32", config["hidden_size"]),
        ("feed_forward_length", "uint32", config["intermediate_size"]),
        ("block_count", "uint32", config["num_hidden_layers"]),
        ("attention.head_count", "uint32", config["num_attention_heads"]),
        ("attention.head_count_kv", "uint32", common.key_value_heads(config)),
        ("attention.layer_norm_rms_epsilon", "float32", config["rms_norm_eps"]),
        ("rope.dimension_count", "uint32", rope_dimensions(config)),
        ("rope.freq_base", "float32", common.rope_theta(config)),
        ("attention.sliding_window", "uint32", config.get("sliding_window") or 0),
    ]
    if common.rope_scaling(config):
        entries.append(("rope.scaling.attn_factor", "float32", longrope.attention_factor(config)))
    return entries


def extra_tensors(config: Config) -> Iterator[tuple[str, Floats]]:
    """LongRoPE's factors, float32 [RoPE dimensions / 2] each."""
    scaling = common.rope_scaling(config)
    if not scaling:
        return
    if scaling["rope_type"] not in longrope.NAMES:
        raise UsageError(
            f"RoPE scaling '{scaling['rope_type']}' is not supported for Phi-3",
            hint="Supported: none, longrope.",
        )
    yield from longrope.factor_tensors(config, rope_dimensions(config))


PHI3 = Architecture(
    gguf_name="phi3",
    hf_names=("Phi3ForCausalLM",),
    tensors=common.TENSORS,
    layer_tensors={
        "attn_norm": "input_layernorm",
        "attn_qkv": "self_attn.qkv_proj",
        "attn_output": "self_attn.o_proj",
        "ffn_norm": "post_attention_layernorm",
        "ffn_up": "mlp.gate_up_proj",
        "ffn_down": "mlp.down_proj",
    },
    to_config=to_config,
    to_metadata=to_metadata,
    extra_tensors=extra_tensors,
)
