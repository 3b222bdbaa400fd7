"""Mixtures of experts: Qwen2-MoE, Qwen3-MoE, OLMoE, Mixtral, gpt-oss, Llama 4 (text), DeepSeek V2
and V3, GLM-4 MoE, dots.llm1."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import replace
from typing import Any

from tuneserve.errors import UsageError
from tuneserve.gguf.architectures import common, llama
from tuneserve.gguf.architectures.stacks import (
    EVERYTHING,
    Stack,
    even_columns,
    experts,
    first_columns,
    last_columns,
    odd_columns,
)
from tuneserve.gguf.architectures.table import BIASES, Architecture, Config, Entries
from tuneserve.gguf.reader import ArchitectureMetadata
from tuneserve.model_shape import expert_count

SOFTMAX, SIGMOID = 1, 2
_HEAD_SIZES = ("attention.key_length", "attention.value_length")
_ATTENTION = {
    name: inner for name, inner in common.LAYER_TENSORS.items() if not name.startswith("ffn_")
}
_NORMS = {"ffn_norm": "post_attention_layernorm"}
ROUTER = {"ffn_gate_inp": "mlp.gate"}
_DENSE = {
    "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}  # fmt: skip
_QK_NORMS = {"attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm"}
_CORRECTION = {"exp_probs_b.bias": "mlp.gate.e_score_correction_bias"}
_DENSE_NAMES = frozenset(f"{name}.weight" for name in _DENSE)


def shared(folder: str) -> dict[str, str]:
    """The expert that every token goes through."""
    return {
        "ffn_gate_shexp": f"{folder}.gate_proj",
        "ffn_up_shexp": f"{folder}.up_proj",
        "ffn_down_shexp": f"{folder}.down_proj",
    }


_MIXTURE_NAMES = frozenset(
    [f"{name}.weight" for name in ("ffn_gate_inp", *shared(""))] + [*experts(), *_CORRECTION]
)


def no_import(metadata: ArchitectureMetadata) -> dict[str, Any]:
    raise UsageError(
        "a GGUF with a mixture of experts can't be imported",
        hint="Name the model's Hugging Face checkpoint as the base.",
    )


def expert_metadata(config: Config) -> Entries:
    """Sizes and attention as everywhere, and how many experts there are and are used."""
    entries = [*common.usual_metadata(config), *common.given_head_size(config)]
    entries.append(("expert_count", "uint32", expert_count(config)))
    used = config.get("num_experts_per_tok")
    if used is not None:
        entries.append(("expert_used_count", "uint32", used))
    for key, name in (("n_group", "expert_group_count"), ("topk_group", "expert_group_used_count")):
        if config.get(key) is not None:
            entries.append((name, "uint32", config[key]))
    # Where a configuration doesn't say it, transformers' models of this kind take the sigmoid.
    default = "sigmoid" if config.get("model_type") in ("deepseek_v3", "dots1") else None
    scores = config.get("scoring_func", default)
    if scores is not None:
        kind = SIGMOID if scores == "sigmoid" else SOFTMAX
        entries.append(("expert_gating_func", "uint32", kind))
    return entries


def check(config: Config, key: str, value: Any) -> None:
    """Raise UsageError if the configuration has another value than llama.cpp computes with."""
    if config.get(key, value) != value:
        raise UsageError(
            f"llama.cpp computes with {key} = {value}, this model has {config[key]}",
            where=f"config.json: {key}",
        )


def sizes(config: Config, **keys: str) -> Entries:
    """uint32 entries, where the configuration has them: GGUF key = configuration's key."""
    return [
        (name, "uint32", config[key])
        for name, key in keys.items()
        if config.get(key) is not None
    ]  # fmt: skip


def leading_dense(config: Config, layer: int) -> Container[str]:
    """The first layers are dense."""
    dense = layer < int(config.get("first_k_dense_replace") or 0)
    return _MIXTURE_NAMES if dense else _DENSE_NAMES


def qwen_metadata(config: Config) -> Entries:
    if config["model_type"] == "qwen3_moe":
        # transformers' default is no, llama.cpp always does: the released models all have it.
        check({"norm_topk_prob": False, **config}, "norm_topk_prob", True)
    else:
        check(config, "norm_topk_prob", False)
    return expert_metadata(config) + qwen_widths(config)


def qwen_widths(config: Config) -> Entries:
    return sizes(
        config,
        expert_feed_forward_length="moe_intermediate_size",
        expert_shared_feed_forward_length="shared_expert_intermediate_size",
    )


def olmoe_metadata(config: Config) -> Entries:
    check(config, "norm_topk_prob", False)
    check(config, "clip_qkv", None)
    check(config, "rms_norm_eps", 1e-5)
    return expert_metadata(config)


def mixtral_metadata(config: Config) -> Entries:
    return llama_metadata(config) + sizes(
        config, expert_count="num_local_experts", expert_used_count="num_experts_per_tok"
    )


def llama_metadata(config: Config) -> Entries:
    """Llama's; the size of a head only where the configuration has one."""
    sized = config.get("head_dim")
    entries = llama.to_metadata(config)
    return entries if sized else [e for e in entries if e[0] not in _HEAD_SIZES]


def gpt_oss_metadata(config: Config) -> Entries:
    return expert_metadata(config) + sizes(
        config,
        **{"attention.sliding_window": "sliding_window"},
        expert_feed_forward_length="intermediate_size",
    )


def llama4_metadata(config: Config) -> Entries:
    dense = {**config, "intermediate_size": config["intermediate_size_mlp"]}
    entries = llama.to_metadata(dense) + sizes(
        config,
        expert_count="num_local_experts",
        expert_used_count="num_experts_per_tok",
        interleave_moe_layer_step="interleave_moe_layer_step",
        expert_feed_forward_length="intermediate_size",
    )
    kinds = config.get("layer_types")
    if kinds and all(kind == "full_attention" for kind in kinds):
        entries.append(("attention.sliding_window", "uint32", 0))
    return entries


def llama4_absent(config: Config, layer: int) -> Container[str]:
    step = int(config.get("interleave_moe_layer_step") or 1)
    mixtures = config.get("moe_layers")
    mixed = layer in mixtures if mixtures is not None else (layer + 1) % step == 0
    return _DENSE_NAMES if mixed else _MIXTURE_NAMES


def key_rows(config: Config, rows: int, columns: int) -> tuple[slice, slice]:
    return slice(0, int(config["qk_nope_head_dim"])), EVERYTHING


def value_rows(config: Config, rows: int, columns: int) -> tuple[slice, slice]:
    return slice(int(config["qk_nope_head_dim"]), rows), EVERYTHING


def heads(config: Config) -> int:
    return int(config["num_attention_heads"])


def deepseek_absent(config: Config, layer: int) -> Container[str]:
    absent = {*leading_dense(config, layer)}  # type: ignore[misc]
    low_rank = {"attn_q_a.weight", "attn_q_b.weight", "attn_q_a_norm.weight"}
    absent |= {"attn_q.weight"} if config.get("q_lora_rank") else low_rank
    return absent | ({*_CORRECTION} if config["model_type"] == "deepseek_v2" else set())


def deepseek_metadata(config: Config) -> Entries:
    rope, rank = int(config["qk_rope_head_dim"]), int(config["kv_lora_rank"])
    # All heads read one latent key and value: llama.cpp computes them as one head of that size.
    entries = expert_metadata({**config, "num_key_value_heads": 1, "head_dim": None})
    entries += [
        ("leading_dense_block_count", "uint32", int(config.get("first_k_dense_replace") or 0)),
        ("vocab_size", "uint32", config["vocab_size"]),
        ("attention.kv_lora_rank", "uint32", rank),
        ("attention.key_length", "uint32", rank + rope),
        ("attention.value_length", "uint32", rank),
        ("attention.key_length_mla", "uint32", int(config["qk_nope_head_dim"]) + rope),
        ("attention.value_length_mla", "uint32", config["v_head_dim"]),
        ("rope.dimension_count", "uint32", rope),
        *sizes(
            config,
            **{"attention.q_lora_rank": "q_lora_rank"},
            expert_feed_forward_length="moe_intermediate_size",
            expert_shared_count="n_shared_experts",
        ),
        *routing(config),
    ]
    scale = common.rope_scaling(config).get("mscale_all_dim")
    if scale is not None:
        entries.append(("rope.scaling.yarn_log_multiplier", "float32", 0.1 * scale))
    return entries


def routing(config: Config) -> Entries:
    """What the chosen experts' weights are multiplied with, and whether they sum up to one."""
    entries: Entries = []
    if config.get("routed_scaling_factor") is not None:
        entries.append(("expert_weights_scale", "float32", config["routed_scaling_factor"]))
    if config.get("norm_topk_prob"):
        entries.append(("expert_weights_norm", "bool", True))
    return entries


def scaled_experts(config: Config) -> Entries:
    """What chosen experts' weights are multiplied with, and the sizes of shared experts beside
    them."""
    return [
        ("expert_weights_scale", "float32", config["routed_scaling_factor"]),
        ("expert_weights_norm", "bool", bool(config["norm_topk_prob"])),
        *sizes(
            config,
            expert_feed_forward_length="moe_intermediate_size",
            expert_shared_count="n_shared_experts",
            leading_dense_block_count="first_k_dense_replace",
        ),
    ]


def glm4_metadata(config: Config) -> Entries:
    share = common.partial_rotary(config, 0.5)
    next_tokens: Entries = [("nextn_predict_layers", "uint32", 0)]
    return [
        *expert_metadata(config),
        ("rope.dimension_count", "uint32", int(common.head_size(config) * share)),
        ("expert_gating_func", "uint32", SIGMOID),
        *scaled_experts(config),
        *(next_tokens if config.get("num_nextn_predict_layers") == 0 else []),
    ]


def dots1_metadata(config: Config) -> Entries:
    return [
        *expert_metadata(config),
        *scaled_experts(config),
    ]


QWEN2_MOE = Architecture(
    gguf_name="qwen2moe",
    hf_names=("Qwen2MoeForCausalLM",),
    model_type="qwen2_moe",
    tensors=common.TENSORS,
    layer_tensors={
        **_ATTENTION,
        **_NORMS,
        **ROUTER,
        **shared("mlp.shared_expert"),
        "ffn_gate_inp_shexp": "mlp.shared_expert_gate",
    },
    stacks=experts(),
    to_config=no_import,
    to_metadata=qwen_metadata,
)
QWEN3_MOE = Architecture(
    gguf_name="qwen3moe",
    hf_names=("Qwen3MoeForCausalLM",),
    model_type="qwen3_moe",
    tensors=common.TENSORS,
    layer_tensors={**_ATTENTION, **_QK_NORMS, **_NORMS, **ROUTER},
    stacks=experts(),
    to_config=no_import,
    to_metadata=qwen_metadata,
)
OLMOE = replace(
    QWEN3_MOE,
    gguf_name="olmoe",
    hf_names=("OlmoeForCausalLM",),
    model_type="olmoe",
    to_metadata=olmoe_metadata,
)
MIXTRAL = Architecture(
    gguf_name="llama",
    hf_names=("MixtralForCausalLM",),
    model_type="mixtral",
    tensors=common.TENSORS,
    layer_tensors={**_ATTENTION, **_NORMS, "ffn_gate_inp": "block_sparse_moe.gate"},
    stacks=experts(),
    to_config=no_import,
    to_metadata=mixtral_metadata,
    row_order=llama.LLAMA.row_order,
    biases=(*BIASES, "attn_output"),
)
GPT_OSS = Architecture(
    gguf_name="gpt-oss",
    hf_names=("GptOssForCausalLM",),
    model_type="gpt_oss",
    tensors=common.TENSORS,
    layer_tensors={
        **_ATTENTION,
        "post_attention_norm": "post_attention_layernorm",
        "ffn_gate_inp": "mlp.router",
    },
    exact={"attn_sinks.weight": "self_attn.sinks"},
    stacks={
        "ffn_gate_exps.weight": Stack("mlp.experts.gate_up_proj", even_columns, transposed=True),
        "ffn_up_exps.weight": Stack("mlp.experts.gate_up_proj", odd_columns, transposed=True),
        "ffn_down_exps.weight": Stack("mlp.experts.down_proj", transposed=True),
        "ffn_gate_exps.bias": Stack(
            "mlp.experts.gate_up_proj_bias", even_columns, matrices=expert_count
        ),
        "ffn_up_exps.bias": Stack(
            "mlp.experts.gate_up_proj_bias", odd_columns, matrices=expert_count
        ),
        "ffn_down_exps.bias": Stack("mlp.experts.down_proj_bias", matrices=expert_count),
    },
    to_config=no_import,
    to_metadata=gpt_oss_metadata,
)
LLAMA4 = Architecture(
    gguf_name="llama4",
    hf_names=("Llama4ForCausalLM",),
    model_type="llama4_text",
    tensors=common.TENSORS,
    layer_tensors={
        **_ATTENTION,
        **_NORMS,
        "ffn_gate_inp": "feed_forward.router",
        **{name: inner.replace("mlp", "feed_forward") for name, inner in _DENSE.items()},
        **shared("feed_forward.shared_expert"),
    },
    stacks={
        "ffn_gate_exps.weight": Stack(
            "feed_forward.experts.gate_up_proj", first_columns, transposed=True
        ),
        "ffn_up_exps.weight": Stack(
            "feed_forward.experts.gate_up_proj", last_columns, transposed=True
        ),
        "ffn_down_exps.weight": Stack("feed_forward.experts.down_proj", transposed=True),
    },
    absent=llama4_absent,
    to_config=no_import,
    to_metadata=llama4_metadata,
    extra_tensors=llama.extra_tensors,
)
# llama.cpp multiplies with these matrices of latent attention without asking for an adapter.
_LATENT = ("attn_q", "attn_q_a", "attn_q_b", "attn_kv_a_mqa", "attn_k_b", "attn_v_b")
DEEPSEEK2 = Architecture(
    gguf_name="deepseek2",
    hf_names=("DeepseekV2ForCausalLM", "DeepseekV3ForCausalLM"),
    tensors=common.TENSORS,
    layer_tensors={
        "attn_norm": "input_layernorm",
        "attn_q": "self_attn.q_proj",
        "attn_q_a": "self_attn.q_a_proj",
        "attn_q_a_norm": "self_attn.q_a_layernorm",
        "attn_q_b": "self_attn.q_b_proj",
        "attn_kv_a_mqa": "self_attn.kv_a_proj_with_mqa",
        "attn_kv_a_norm": "self_attn.kv_a_layernorm",
        "attn_output": "self_attn.o_proj",
        **_NORMS,
        **ROUTER,
        **_DENSE,
        **shared("mlp.shared_experts"),
    },
    exact=_CORRECTION,
    stacks={
        **experts(),
        "attn_k_b.weight": Stack(
            "self_attn.kv_b_proj.weight", key_rows, transposed=True, matrices=heads
        ),
        "attn_v_b.weight": Stack("self_attn.kv_b_proj.weight", value_rows, matrices=heads),
    },
    absent=deepseek_absent,
    no_adapter=frozenset(f"{name}.weight" for name in _LATENT),
    to_config=no_import,
    to_metadata=deepseek_metadata,
    biases=(),
)
GLM4_MOE = Architecture(
    gguf_name="glm4moe",
    hf_names=("Glm4MoeForCausalLM",),
    model_type="glm4_moe",
    tensors=common.TENSORS,
    layer_tensors={
        **_ATTENTION,
        **ROUTER,
        **_DENSE,
        **shared("mlp.shared_experts"),
        "post_attention_norm": "post_attention_layernorm",
    },
    exact=_CORRECTION,
    stacks=experts(),
    absent=leading_dense,
    to_config=no_import,
    to_metadata=glm4_metadata,
)
DOTS1 = Architecture(
    gguf_name="dots1",
    hf_names=("Dots1ForCausalLM",),
    tensors=common.TENSORS,
    layer_tensors={
        **_ATTENTION,
        **_QK_NORMS,
        **_NORMS,
        **ROUTER,
        **_DENSE,
        **shared("mlp.shared_experts"),
    },
    exact=_CORRECTION,
    stacks=experts(),
    absent=leading_dense,
    to_config=no_import,
    to_metadata=dots1_metadata,
)
ARCHITECTURES = (
    QWEN3_MOE, GPT_OSS, LLAMA4, DEEPSEEK2, QWEN2_MOE, MIXTRAL, OLMOE, GLM4_MOE, DOTS1,
)  # fmt: skip
