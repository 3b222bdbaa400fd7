"""Qwen3.5, dense and with experts: three layers of linear attention (gated delta rule) to one of
full attention.

transformers keeps the value heads of a key head together, llama.cpp the first value heads of all
key heads, then the second ones, and so on.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from tuneserve.gguf.architectures import common, moe
from tuneserve.gguf.architectures.stacks import experts
from tuneserve.gguf.architectures.table import Architecture, Config, Entries, Order, RowOrder
from tuneserve.gguf.architectures.values import MINUS_EXPONENTIAL, ONE_MORE

DEFAULT_SECTIONS = (11, 11, 10)


def value_heads(config: Config, size: int) -> RowOrder:
    """Order of rows that belong to the value heads, `size` to a head."""
    keys = int(config["linear_num_key_heads"])
    per_key = int(config["linear_num_value_heads"]) // keys
    order = np.arange(keys * per_key * size, dtype=np.int64).reshape(keys, per_key, size)
    return order.swapaxes(0, 1).reshape(-1)


def of_values(config: Config, rows: int) -> RowOrder:
    """Of a tensor whose rows are all the value heads'."""
    return value_heads(config, rows // int(config["linear_num_value_heads"]))


def behind_keys(config: Config, rows: int) -> RowOrder:
    """Of one whose first rows are the queries' and keys'."""
    values = value_heads(config, int(config["linear_value_head_dim"]))
    before = rows - len(values)
    return np.concatenate([np.arange(before, dtype=np.int64), before + values])


def moe_metadata(config: Config) -> Entries:
    """No layer is dense: published configurations have no width of one."""
    wide = {"intermediate_size": 0, **config}
    entries = [
        entry for entry in to_metadata(wide) if entry != ("feed_forward_length", "uint32", 0)
    ]
    counts = [entry for entry in moe.expert_metadata(wide) if entry[0].startswith("expert_")]
    return [*entries, *counts, *moe.qwen_widths(config)]


def to_metadata(config: Config) -> Entries:
    turned = int(common.head_size(config) * common.partial_rotary(config, 0.25))
    values = int(config["linear_num_value_heads"])
    recurrent = [kind == "linear_attention" for kind in config["layer_types"]]
    return [
        *common.usual_metadata(config),
        *common.given_head_size(config),
        *common.position_sections(config, DEFAULT_SECTIONS, turned),
        ("ssm.conv_kernel", "uint32", config["linear_conv_kernel_dim"]),
        ("ssm.state_size", "uint32", config["linear_key_head_dim"]),
        ("ssm.group_count", "uint32", config["linear_num_key_heads"]),
        ("ssm.time_step_rank", "uint32", values),
        ("ssm.inner_size", "uint32", int(config["linear_value_head_dim"]) * values),
        ("attention.recurrent_layers", "array", recurrent),
        ("full_attention_interval", "uint32", config.get("full_attention_interval", 4)),
        ("rope.dimension_count", "uint32", turned),
    ]


_FULL = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
}
_LINEAR = {
    "attn_qkv": "linear_attn.in_proj_qkv",
    "attn_gate": "linear_attn.in_proj_z",
    "ssm_alpha": "linear_attn.in_proj_a",
    "ssm_beta": "linear_attn.in_proj_b",
    "ssm_conv1d": "linear_attn.conv1d",
    "ssm_norm": "linear_attn.norm",
    "ssm_out": "linear_attn.out_proj",
}
# Neither of them ends in '.weight'.
_PARAMETERS = {"ssm_a": "linear_attn.A_log", "ssm_dt.bias": "linear_attn.dt_bias"}
_ROWS: dict[str, Order] = {
    "attn_qkv": behind_keys,
    "ssm_conv1d": behind_keys,
    "attn_gate": of_values,
    "ssm_alpha": of_values,
    "ssm_beta": of_values,
    "ssm_a": of_values,
    "ssm_dt": of_values,
}
_FULL_WEIGHTS = frozenset(f"{name}.weight" for name in _FULL)
_LINEAR_WEIGHTS = frozenset([*(f"{name}.weight" for name in _LINEAR), *_PARAMETERS])


def absent(config: Config, layer: int) -> frozenset[str]:
    full = config["layer_types"][layer] == "full_attention"
    return _LINEAR_WEIGHTS if full else _FULL_WEIGHTS


QWEN35 = Architecture(
    gguf_name="qwen35",
    hf_names=("Qwen3_5ForCausalLM", "Qwen3_5ForConditionalGeneration"),
    model_type="qwen3_5_text",
    tensors=common.TENSORS,
    layer_tensors={
        "attn_norm": "input_layernorm",
        "post_attention_norm": "post_attention_layernorm",
        "ffn_gate": "mlp.gate_proj",
        "ffn_up": "mlp.up_proj",
        "ffn_down": "mlp.down_proj",
        **_FULL,
        **_LINEAR,
    },
    exact=_PARAMETERS,
    absent=absent,
    row_order=_ROWS,
    column_order={"ssm_out": of_values},
    values={
        **dict.fromkeys(
            ("output_norm", "attn_norm", "post_attention_norm", "attn_q_norm", "attn_k_norm"),
            ONE_MORE,
        ),
        "ssm_a": MINUS_EXPONENTIAL,
    },
    to_metadata=to_metadata,
    # Layers that draft further tokens: transformers does not compute with them either.
    ignored=(r"(model\.)?mtp\..*",),
)
_DENSE = ("ffn_gate", "ffn_up", "ffn_down")
QWEN35_MOE = replace(
    QWEN35,
    gguf_name="qwen35moe",
    hf_names=("Qwen3_5MoeForCausalLM", "Qwen3_5MoeForConditionalGeneration"),
    model_type="qwen3_5_moe_text",
    layer_tensors={
        **{name: inner for name, inner in QWEN35.layer_tensors.items() if name not in _DENSE},
        **moe.ROUTER,
        **moe.shared("mlp.shared_expert"),
        "ffn_gate_inp_shexp": "mlp.shared_expert_gate",
    },
    stacks=experts(),
    to_config=moe.no_import,
    to_metadata=moe_metadata,
)
ARCHITECTURES = (QWEN35, QWEN35_MOE)
