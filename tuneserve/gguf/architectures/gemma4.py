"""Gemma 4, text, dense: wide heads in the layers that see everything, an embedding for each layer,
and last layers that share their keys and values with earlier ones."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from tuneserve.arrays import Floats
from tuneserve.gguf.architectures import common
from tuneserve.gguf.architectures.gemma import LAYER_TENSORS
from tuneserve.gguf.architectures.table import Architecture, Config, Entries

NEVER_TURNED = 1e30  # a RoPE factor that leaves a pair of numbers as it is


def of_full_layers(config: Config, key: str, global_key: str) -> Any:
    """A size of the layers that see everything, of either generation of config.json; None if it is
    the other layers'."""
    if config.get(global_key) is not None:
        return config[global_key]
    for layer, own in (config.get("per_layer_config") or {}).items():
        if config["layer_types"][int(layer)] == "full_attention" and key in own:
            return own[key]
    return None


def full_head_size(config: Config) -> int:
    return int(of_full_layers(config, "head_dim", "global_head_dim") or config["head_dim"])


def sharing_from(config: Config) -> int:
    """The first layer without keys and values of its own."""
    return int(config["num_hidden_layers"]) - int(config.get("num_kv_shared_layers") or 0)


def to_metadata(config: Config) -> Entries:
    sliding = [kind == "sliding_attention" for kind in config["layer_types"]]
    local = config["rope_parameters"].get("sliding_attention") or {}
    own: Entries = [
        ("rope.freq_base_swa", "float32", local.get("rope_theta", 10000.0)),
        ("attention.sliding_window", "uint32", config["sliding_window"]),
        ("attention.sliding_window_pattern", "array", sliding),
        ("attention.shared_kv_layers", "uint32", config.get("num_kv_shared_layers") or 0),
        ("embedding_length_per_layer_input", "uint32",
         config.get("hidden_size_per_layer_input") or 0),
        ("attention.key_length", "uint32", full_head_size(config)),
        ("attention.value_length", "uint32", full_head_size(config)),
        ("attention.key_length_swa", "uint32", config["head_dim"]),
        ("attention.value_length_swa", "uint32", config["head_dim"]),
        ("rope.dimension_count", "uint32", full_head_size(config)),
        ("rope.dimension_count_swa", "uint32", config["head_dim"]),
        # llama.cpp caps at 30 where the file says nothing; 0 is no cap.
        ("final_logit_softcapping", "float32", config.get("final_logit_softcapping") or 0.0),
    ]  # fmt: skip
    if config.get("use_double_wide_mlp"):
        width, first = int(config["intermediate_size"]), sharing_from(config)
        widths = [width if layer < first else 2 * width for layer in range(len(sliding))]
        own.append(("feed_forward_length", "array", widths))
    full = of_full_layers(config, "num_key_value_heads", "num_global_key_value_heads")
    if full is not None:
        heads = [common.key_value_heads(config) if local else int(full) for local in sliding]
        own.append(("attention.head_count_kv", "array", heads))
    replaced = {key for key, _, _ in own}
    usual = common.usual_metadata(config, computed=("proportional",))
    return [entry for entry in usual if entry[0] not in replaced] + own


def extra_tensors(config: Config) -> Iterator[tuple[str, Floats]]:
    """`rope_freqs.weight`: which pairs of a wide head RoPE turns."""
    half = full_head_size(config) // 2
    share = config["rope_parameters"]["full_attention"]["partial_rotary_factor"]
    factors = np.full(half, NEVER_TURNED, dtype=np.float32)
    factors[: int(full_head_size(config) * share / 2)] = 1.0
    yield "rope_freqs.weight", factors


_BY_LAYER = {"inp_gate": "per_layer_input_gate", "proj": "per_layer_projection",
             "post_norm": "post_per_layer_input_norm"}  # fmt: skip


def absent(config: Config, layer: int) -> frozenset[str]:
    names: set[str] = set()
    if not config.get("hidden_size_per_layer_input"):
        names |= {*_BY_LAYER}
    if layer >= sharing_from(config):
        names |= {"attn_k", "attn_v", "attn_k_norm"}
    elif config.get("attention_k_eq_v") and config["layer_types"][layer] == "full_attention":
        names.add("attn_v")
    return frozenset(f"{name}.weight" for name in names)


GEMMA4 = Architecture(
    gguf_name="gemma4",
    activation="gelu_pytorch_tanh",
    hf_names=("Gemma4ForCausalLM", "Gemma4ForConditionalGeneration"),
    model_type="gemma4_text",
    tensors={
        **common.TENSORS,
        "per_layer_token_embd": "model.embed_tokens_per_layer",
        "per_layer_model_proj": "model.per_layer_model_projection",
        "per_layer_proj_norm": "model.per_layer_projection_norm",
    },
    optional=frozenset(
        {"output", "per_layer_token_embd", "per_layer_model_proj", "per_layer_proj_norm"}
    ),
    no_adapter=frozenset({"per_layer_model_proj.weight"}),
    layer_tensors={**LAYER_TENSORS, **_BY_LAYER},
    exact={"layer_output_scale.weight": "layer_scalar"},
    absent=absent,
    to_metadata=to_metadata,
    extra_tensors=extra_tensors,
    biases=(),
)
