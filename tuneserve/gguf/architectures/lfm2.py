"""LFM2, dense and with experts: short convolutions in most layers, attention in the others."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import replace

from tuneserve.gguf.architectures import common, moe
from tuneserve.gguf.architectures.stacks import experts
from tuneserve.gguf.architectures.table import Architecture, Config, Entries


def adjusted_width(config: Config) -> int:
    """Columns between the feed-forward layers, as LFM2 computes them."""
    width = int(config.get("block_ff_dim") or config["intermediate_size"])
    if config.get("block_auto_adjust_ff_dim"):
        width = int(2 * width / 3)
        if config.get("block_ffn_dim_multiplier") is not None:
            width = int(config["block_ffn_dim_multiplier"] * width)
        multiple = int(config["block_multiple_of"])
        width = multiple * -(-width // multiple)
    return width


def to_metadata(config: Config) -> Entries:
    sizes = {**config, "intermediate_size": adjusted_width(config)}
    sizes["rms_norm_eps"] = config["norm_eps"]
    heads = common.key_value_heads(config)
    by_layer = [0 if kind == "conv" else heads for kind in config["layer_types"]]
    own: Entries = [
        ("attention.head_count_kv", "array", by_layer),
        *common.given_head_size(config),
        ("vocab_size", "uint32", config["vocab_size"]),
        ("shortconv.l_cache", "uint32", config["conv_L_cache"]),
    ]
    usual = common.usual_metadata(sizes)
    return [entry for entry in usual if entry[0] != "attention.head_count_kv"] + own


def moe_metadata(config: Config) -> Entries:
    for key, value in (("norm_topk_prob", True), ("routed_scaling_factor", 1.0),
                       ("use_expert_bias", True)):  # fmt: skip
        moe.check(config, key, value)
    return [
        *to_metadata(config),
        ("expert_gating_func", "uint32", moe.SIGMOID),
        *moe.sizes(
            config,
            expert_count="num_experts",
            expert_used_count="num_experts_per_tok",
            expert_feed_forward_length="moe_intermediate_size",
            leading_dense_block_count="num_dense_layers",
        ),
    ]


def moe_absent(config: Config, layer: int) -> Container[str]:
    dense = layer < int(config["num_dense_layers"])
    return _of_other_kind(config, layer) | (_MIXTURE if dense else _DENSE_WEIGHTS)


_CONVOLUTION = {
    "shortconv.conv": "conv.conv",
    "shortconv.in_proj": "conv.in_proj",
    "shortconv.out_proj": "conv.out_proj",
}
_ATTENTION = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.out_proj",
    "attn_q_norm": "self_attn.q_layernorm",
    "attn_k_norm": "self_attn.k_layernorm",
}
_of_other_kind = common.by_kind({"conv": _CONVOLUTION, "full_attention": _ATTENTION})
_DENSE = {
    "ffn_gate": "feed_forward.w1",
    "ffn_down": "feed_forward.w2",
    "ffn_up": "feed_forward.w3",
}
_DENSE_WEIGHTS = frozenset(f"{name}.weight" for name in _DENSE)
_CORRECTION = {"exp_probs_b.bias": "feed_forward.expert_bias"}
_STACKS = experts("feed_forward.experts")
_MIXTURE = frozenset(["ffn_gate_inp.weight", *_CORRECTION, *_STACKS])
LFM2 = Architecture(
    gguf_name="lfm2",
    hf_names=("Lfm2ForCausalLM",),
    tensors={
        "token_embd": "model.embed_tokens",
        "token_embd_norm": "model.embedding_norm",
        "output": "lm_head",
    },
    layer_tensors={
        "attn_norm": "operator_norm",
        "ffn_norm": "ffn_norm",
        **_DENSE,
        **_CONVOLUTION,
        **_ATTENTION,
    },
    absent=_of_other_kind,
    to_metadata=to_metadata,
)
LFM2_MOE = replace(
    LFM2,
    gguf_name="lfm2moe",
    hf_names=("Lfm2MoeForCausalLM",),
    model_type="lfm2_moe",
    layer_tensors={**LFM2.layer_tensors, "ffn_gate_inp": "feed_forward.gate"},
    exact=_CORRECTION,
    stacks=_STACKS,
    absent=moe_absent,
    to_config=moe.no_import,
    to_metadata=moe_metadata,
)
ARCHITECTURES = (LFM2, LFM2_MOE)
