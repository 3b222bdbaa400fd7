"""Granite 3 and 4: Llama with scales; mixtures of experts; layers with a state space (Mamba-2)."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import replace
from typing import Any

from tuneserve.gguf.architectures import common, dense, llama, mamba2, moe
from tuneserve.gguf.architectures.stacks import Stack, experts, first_rows, last_rows
from tuneserve.gguf.architectures.table import Architecture, Config, Entries
from tuneserve.gguf.reader import ArchitectureMetadata
from tuneserve.model_shape import expert_count

_SCALES = {
    "attention.scale": "attention_multiplier",
    "embedding_scale": "embedding_multiplier",
    "residual_scale": "residual_multiplier",
    "logit_scale": "logits_scaling",
}
# What the layers are called in published checkpoints and by transformers.
_ATTENTION_LAYERS = ("attention", "full_attention")
LONGEST = 2**20  # the context of a model without positions
EXPANSION = 2


def to_config(metadata: ArchitectureMetadata) -> dict[str, Any]:
    config = common.shape_config(metadata)
    del config["head_dim"]
    found = {name: metadata.get(key, None) for key, name in _SCALES.items()}
    return {**config, **{n: common.shortest(value) for n, value in found.items() if value}}


def to_metadata(config: Config) -> Entries:
    return [
        *dense.llama_metadata(config),
        *((key, "float32", config[name]) for key, name in _SCALES.items() if config.get(name)),
    ]


def moe_metadata(config: Config) -> Entries:
    return [
        *to_metadata({**config, "head_dim": None}),
        *moe.sizes(
            config,
            expert_count="num_local_experts",
            expert_used_count="num_experts_per_tok",
            expert_shared_feed_forward_length="shared_intermediate_size",
        ),
    ]


def shared_absent(config: Config, layer: int) -> Container[str]:
    return () if config.get("shared_intermediate_size") else (
        "ffn_gate_shexp.weight", "ffn_up_shexp.weight", "ffn_down_shexp.weight",
    )  # fmt: skip


def attention_layers(config: Config) -> list[bool]:
    """Of each layer: is it one of attention, and none with a state space?"""
    return [kind in _ATTENTION_LAYERS for kind in config["layer_types"]]


def rotates(config: Config) -> bool:
    return bool(config.get("position_embedding_type") == "rope")


def hybrid_metadata(config: Config) -> Entries:
    """Of Granite 4. Its layers have a dense part that all tokens go through, and may have experts
    beside it."""
    attention = attention_layers(config)
    if not expert_count(config):
        config = {**config, "intermediate_size": config["shared_intermediate_size"]}
    inner = int(config.get("mamba_expand") or EXPANSION) * int(config["hidden_size"])
    heads = common.key_value_heads(config)
    by_layer = [heads if attends else 0 for attends in attention]
    own: Entries = [
        ("attention.head_count_kv", "array", by_layer),
        *mamba2.to_metadata(config, inner),
        ("rope.scaling.finetuned", "bool", rotates(config)),
    ]
    if not all(attention):
        moe.check(config, "mamba_expand", EXPANSION)
        # With several llama.cpp norms each alone, transformers all together.
        moe.check(config, "mamba_n_groups", 1)
        if not rotates(config):
            own.append(("context_length", "uint32", LONGEST))
    replaced = {key for key, _, _ in own}
    return [entry for entry in moe_metadata(config) if entry[0] not in replaced] + own


_ATTENTION = {n: inner for n, inner in common.LAYER_TENSORS.items() if n.startswith("attn_")}
_OF_ATTENTION = frozenset(f"{name}.weight" for name in _ATTENTION) - {"attn_norm.weight"}
_OF_STATE = frozenset([*(f"{name}.weight" for name in mamba2.TENSORS), *mamba2.PARAMETERS])


def hybrid_absent(config: Config, layer: int) -> Container[str]:
    return _OF_STATE if attention_layers(config)[layer] else _OF_ATTENTION


def _one(config: Config) -> int:
    return 1


def _halves(gate: str, up: str) -> dict[str, Stack]:
    """The two matrices in the first one of the part that all tokens go through."""
    source = "shared_mlp.input_linear.weight"
    return {
        gate: Stack(source, first_rows, matrices=_one),
        up: Stack(source, last_rows, matrices=_one),
    }


GRANITE = replace(
    llama.LLAMA,
    gguf_name="granite",
    hf_names=("GraniteForCausalLM",),
    to_config=to_config,
    to_metadata=to_metadata,
)
GRANITE_MOE = Architecture(
    gguf_name="granitemoe",
    hf_names=("GraniteMoeForCausalLM", "GraniteMoeSharedForCausalLM"),
    tensors=common.TENSORS,
    layer_tensors={
        **_ATTENTION,
        "ffn_norm": "post_attention_layernorm",
        "ffn_gate_inp": "block_sparse_moe.router.layer",
        "ffn_down_shexp": "shared_mlp.output_linear",
    },
    stacks={
        **experts("block_sparse_moe.experts"),
        **_halves("ffn_gate_shexp.weight", "ffn_up_shexp.weight"),
    },
    absent=shared_absent,
    to_config=moe.no_import,
    to_metadata=moe_metadata,
    row_order=llama.LLAMA.row_order,
)
# Granite 4 has one name for them all.
_NAMES = ("GraniteMoeHybridForCausalLM",)
_DENSE_PART: dict[str, Any] = {
    "layer_tensors": {
        **_ATTENTION,
        "ffn_norm": "post_attention_layernorm",
        "ffn_down": "shared_mlp.output_linear",
    },
    "stacks": _halves("ffn_gate.weight", "ffn_up.weight"),
}
GRANITE4 = replace(
    GRANITE_MOE,
    gguf_name="granite",
    hf_names=_NAMES,
    **_DENSE_PART,
    when=lambda config: all(attention_layers(config)) and not expert_count(config),
    absent=lambda _config, _layer: (),
    to_metadata=hybrid_metadata,
)
GRANITE4_MOE = replace(
    GRANITE_MOE,
    hf_names=_NAMES,
    when=lambda config: all(attention_layers(config)),
    to_metadata=hybrid_metadata,
)
_STATE: dict[str, Any] = {
    "gguf_name": "granitehybrid",
    "exact": mamba2.PARAMETERS,
    "absent": hybrid_absent,
    "values": mamba2.VALUES,
    "row_counts": mamba2.ROW_COUNTS,
}
GRANITE4_HYBRID = replace(
    GRANITE4,
    **{**_STATE, "layer_tensors": {**_DENSE_PART["layer_tensors"], **mamba2.TENSORS}},
    when=lambda config: not expert_count(config),
)
GRANITE4_HYBRID_MOE = replace(
    GRANITE4_MOE,
    **{**_STATE, "layer_tensors": {**GRANITE_MOE.layer_tensors, **mamba2.TENSORS}},
    when=lambda _: True,
)
ARCHITECTURES = (
    GRANITE, GRANITE_MOE, GRANITE4, GRANITE4_MOE, GRANITE4_HYBRID, GRANITE4_HYBRID_MOE,
)  # fmt: skip
