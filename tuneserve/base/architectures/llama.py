"""Llama and its look-alikes: Llama 2 and 3.x, R1-Distill-Llama, Mistral, SmolLM2."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

from tuneserve.base.architectures.table import (
    Architecture,
    Config,
    Floats,
    Metadata,
    RowOrder,
    ValueType,
)
from tuneserve.errors import UsageError

TENSORS = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}
LAYER_TENSORS = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def head_size(config: Config) -> int:
    return int(config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"])


def rope_theta(config: Config) -> float:
    """RoPE base: `rope_parameters` (transformers 5) or the older top-level key."""
    parameters = config.get("rope_parameters") or {}
    return float(parameters.get("rope_theta") or config.get("rope_theta") or 10000.0)


def rope_scaling(config: Config) -> dict[str, Any]:
    """RoPE scaling of either generation of config.json; {} for none."""
    scaling = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
    kind = scaling.get("rope_type") or scaling.get("type") or "default"
    return {} if kind == "default" else {**scaling, "rope_type": kind}


def interleaved(config: Config, rows: int, heads: str) -> RowOrder:
    """Row order of a RoPE projection: Hugging Face keeps the two halves of a head apart, GGUF
    puts the two numbers that RoPE turns together next to each other."""
    order = np.arange(rows, dtype=np.int64).reshape(int(config[heads]), 2, -1)
    return order.swapaxes(1, 2).reshape(rows)


ROW_ORDER = {
    "attn_q": partial(interleaved, heads="num_attention_heads"),
    "attn_k": partial(interleaved, heads="num_key_value_heads"),
}


def to_config(metadata: Metadata) -> dict[str, Any]:
    """config.json of a Llama GGUF."""
    heads = int(metadata["attention.head_count"])
    hidden = int(metadata["embedding_length"])
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": hidden,
        "intermediate_size": int(metadata["feed_forward_length"]),
        "num_hidden_layers": int(metadata["block_count"]),
        "num_attention_heads": heads,
        "num_key_value_heads": int(metadata.get("attention.head_count_kv", heads)),
        "head_dim": int(metadata.get("rope.dimension_count", hidden // heads)),
        "max_position_embeddings": int(metadata["context_length"]),
        "rms_norm_eps": shortest(metadata["attention.layer_norm_rms_epsilon"]),
        "rope_theta": shortest(metadata.get("rope.freq_base", 10000.0)),
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
    }


def to_metadata(config: Config) -> list[tuple[str, ValueType, Any]]:
    """GGUF metadata (keys without the architecture's prefix) of a Llama config.json."""
    rows: list[tuple[str, ValueType, Any]] = [
        ("block_count", "uint32", config["num_hidden_layers"]),
        ("context_length", "uint32", config["max_position_embeddings"]),
        ("embedding_length", "uint32", config["hidden_size"]),
        ("feed_forward_length", "uint32", config["intermediate_size"]),
        ("attention.head_count", "uint32", config["num_attention_heads"]),
        ("attention.head_count_kv", "uint32", config["num_key_value_heads"]),
        ("rope.freq_base", "float32", rope_theta(config)),
        ("attention.layer_norm_rms_epsilon", "float32", config["rms_norm_eps"]),
    ]
    rows += [
        ("attention.key_length", "uint32", head_size(config)),
        ("attention.value_length", "uint32", head_size(config)),
        ("vocab_size", "uint32", config["vocab_size"]),
        ("rope.dimension_count", "uint32", head_size(config)),
    ]
    return rows + _scaling_metadata(config)


def _scaling_metadata(config: Config) -> list[tuple[str, ValueType, Any]]:
    scaling = rope_scaling(config)
    if not scaling or scaling["rope_type"] == "llama3":
        return []
    if scaling["rope_type"] == "linear":
        return [
            ("rope.scaling.type", "string", "linear"),
            ("rope.scaling.factor", "float32", scaling["factor"]),
        ]
    raise UsageError(
        f"RoPE scaling '{scaling['rope_type']}' is not supported for Llama",
        hint="Supported: none, linear, llama3.",
    )


def extra_tensors(config: Config) -> Iterator[tuple[str, Floats]]:
    """`rope_freqs.weight`, float32 [head size / 2]: Llama 3's RoPE factors, one per frequency.

    A frequency whose wavelength is below the model's original context is left alone, one far
    above it is slowed down by `factor`, those in between are blended (Llama 3.1's scheme).
    """
    scaling = rope_scaling(config)
    if scaling.get("rope_type") == "llama3":
        yield "rope_freqs.weight", llama3_factors(scaling, rope_theta(config), head_size(config))


def llama3_scaling(factors: Floats, base: float, size: int) -> dict[str, Any]:
    """The `rope_scaling` that gives these factors, the reverse of `extra_tensors`.

    The factors don't tell the parameters apart, so the ones every Llama 3.x release uses are
    tried. Raises UsageError if they give other factors.
    """
    scaling = {
        "rope_type": "llama3",
        "factor": float(factors.max()),
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    if not np.allclose(llama3_factors(scaling, base, size), factors, rtol=1e-5):
        raise UsageError("the RoPE factors (rope_freqs.weight) are not Llama 3's")
    return scaling


def llama3_factors(scaling: Config, base: float, size: int) -> Floats:
    exponents = np.arange(0, size, 2, dtype=np.float32) / np.float32(size)
    frequencies = np.float32(1.0) / np.power(np.float32(base), exponents)
    factor = float(scaling.get("factor", 8.0))
    low = float(scaling.get("low_freq_factor", 1.0))
    high = float(scaling.get("high_freq_factor", 4.0))
    context = float(scaling.get("original_max_position_embeddings", 8192))
    factors = np.empty(len(frequencies), dtype=np.float32)
    for i, frequency in enumerate(frequencies):
        wavelength = 2 * math.pi / float(frequency)
        if wavelength < context / high:
            factors[i] = 1.0
        elif wavelength > context / low:
            factors[i] = factor
        else:
            blend = (context / wavelength - low) / (high - low)
            factors[i] = 1 / ((1 - blend) / factor + blend)
    return factors


def shortest(value: float) -> float:
    """The shortest decimal that is the same float32: 1e-05 rather than 9.999999747378752e-06."""
    return float(str(np.float32(value)))


LLAMA = Architecture(
    gguf_name="llama",
    hf_names=("LlamaForCausalLM", "MistralForCausalLM"),
    tensors=TENSORS,
    layer_tensors=LAYER_TENSORS,
    to_config=to_config,
    to_metadata=to_metadata,
    row_order=ROW_ORDER,
    extra_tensors=extra_tensors,
)
