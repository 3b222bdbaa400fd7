"""Gemma 1, 2 and 3, text."""

from __future__ import annotations

from typing import Any

from tuneserve.errors import UsageError
from tuneserve.gguf.architectures import common
from tuneserve.gguf.architectures.table import Architecture, Config, Entries
from tuneserve.gguf.reader import ArchitectureMetadata


def local_rope_theta(config: Config) -> float:
    """RoPE base of the layers that look at a sliding window only."""
    local = (config.get("rope_parameters") or {}).get("sliding_attention") or {}
    return float(local.get("rope_theta") or config.get("rope_local_base_freq") or 10000.0)


def to_config(metadata: ArchitectureMetadata) -> dict[str, Any]:
    config = common.shape_config(metadata)
    del config["hidden_act"]
    soft_cap = metadata.get("final_logit_softcapping", 0.0)
    return {
        **config,
        "hidden_activation": "gelu_pytorch_tanh",
        "query_pre_attn_scalar": attention_size(config),
        **common.window_config(metadata, config["num_hidden_layers"], LAYERS_OF_A_PATTERN),
        "final_logit_softcapping": common.shortest(soft_cap) if soft_cap else None,
        "rope_local_base_freq": common.shortest(metadata.get("rope.freq_base_swa", 10000.0)),
    }


LAYERS_OF_27B = 62
LAYERS_OF_A_PATTERN = 6  # the last of which looks at everything


def attention_size(config: Config) -> int:
    """The size whose root llama.cpp divides attention by: a head's, and for 27B, which it knows by
    its number of layers, the embedding's share of a head."""
    if config["num_hidden_layers"] == LAYERS_OF_27B:
        return int(config["hidden_size"]) // int(config["num_attention_heads"])
    return common.head_size(config)


def check_attention_scale(config: Config) -> None:
    """Raise UsageError if attention is scaled otherwise than llama.cpp does."""
    size = attention_size(config)
    scalar = config.get("query_pre_attn_scalar", 256)
    if scalar != size:
        raise UsageError(
            f"llama.cpp computes with {size} where this model has {scalar}",
            where="config.json: query_pre_attn_scalar",
        )


def to_metadata(config: Config) -> Entries:
    check_attention_scale(config)
    entries = [
        *common.usual_metadata(config),
        ("rope.freq_base_swa", "float32", local_rope_theta(config)),
        *common.head_size_metadata(config),
    ]
    if config.get("final_logit_softcapping"):
        entries.append(("final_logit_softcapping", "float32", config["final_logit_softcapping"]))
    entries.append(("attention.sliding_window", "uint32", config["sliding_window"]))
    entries += common.window_pattern(config, LAYERS_OF_A_PATTERN)
    return entries


LAYER_TENSORS = {
    **common.LAYER_TENSORS,
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}

GEMMA3 = Architecture(
    gguf_name="gemma3",
    activation="gelu_pytorch_tanh",
    hf_names=("Gemma3ForCausalLM", "Gemma3ForConditionalGeneration"),
    model_type="gemma3_text",
    tensors=common.TENSORS,
    layer_tensors=LAYER_TENSORS,
    to_config=to_config,
    to_metadata=to_metadata,
    values=common.norms_plus_one(common.TENSORS, LAYER_TENSORS),
)


def gemma_config(metadata: ArchitectureMetadata) -> dict[str, Any]:
    return {**common.shape_config(metadata), "hidden_act": "gelu_pytorch_tanh"}


def _plain_metadata(config: Config) -> Entries:
    usual = [e for e in common.usual_metadata(config) if not e[0].startswith("rope.")]
    return [*usual, *common.head_size_metadata(config)]


def _gemma2_attention_size(config: Config) -> int:
    """As `attention_size`, of Gemma 2 27B."""
    if config["num_hidden_layers"] == LAYERS_OF_GEMMA2_27B:
        return int(config["hidden_size"]) // int(config["num_attention_heads"])
    return common.head_size(config)


def gemma2_config(metadata: ArchitectureMetadata) -> dict[str, Any]:
    config = gemma_config(metadata)
    return {
        **config,
        "hidden_activation": config["hidden_act"],
        "query_pre_attn_scalar": _gemma2_attention_size(config),
        **common.window_config(metadata, config["num_hidden_layers"], 2),
        **{
            name: common.shortest(metadata[name])
            for name in ("attn_logit_softcapping", "final_logit_softcapping")
        },
    }


def gemma2_metadata(config: Config) -> Entries:
    scalar, size = config.get("query_pre_attn_scalar", 256), _gemma2_attention_size(config)
    if scalar != size:
        raise UsageError(
            f"llama.cpp computes with {size} where this model has {scalar}",
            where="config.json: query_pre_attn_scalar",
        )
    return [
        *_plain_metadata(config),
        ("attn_logit_softcapping", "float32", config["attn_logit_softcapping"]),
        ("final_logit_softcapping", "float32", config["final_logit_softcapping"]),
        ("attention.sliding_window", "uint32", config["sliding_window"]),
        *common.window_pattern(config, 2),
    ]


LAYERS_OF_GEMMA2_27B = 46
_GEMMA2_LAYERS = {
    name: inner for name, inner in LAYER_TENSORS.items() if not name.endswith(("q_norm", "k_norm"))
}

# llama.cpp knows these with the embedding as output matrix alone.
_TIED = {name: inner for name, inner in common.TENSORS.items() if name != "output"}

GEMMA2 = Architecture(
    gguf_name="gemma2",
    activation="gelu_pytorch_tanh",
    hf_names=("Gemma2ForCausalLM",),
    tensors=_TIED,
    layer_tensors=_GEMMA2_LAYERS,
    to_config=gemma2_config,
    to_metadata=gemma2_metadata,
    values=common.norms_plus_one(common.TENSORS, _GEMMA2_LAYERS),
)
GEMMA = Architecture(
    gguf_name="gemma",
    activation="gelu_pytorch_tanh",
    hf_names=("GemmaForCausalLM",),
    tensors=_TIED,
    layer_tensors=common.LAYER_TENSORS,
    to_config=gemma_config,
    to_metadata=_plain_metadata,
    values=common.norms_plus_one(common.TENSORS, common.LAYER_TENSORS),
)
