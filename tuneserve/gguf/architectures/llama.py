"""Llama and its look-alikes: Llama 2 and 3.x, R1-Distill-Llama, Mistral, SmolLM2."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial

import numpy as np

from tuneserve.arrays import Floats
from tuneserve.gguf.architectures import common, longrope
from tuneserve.gguf.architectures.table import BIASES, Architecture, Config, Entries, RowOrder


def interleaved(config: Config, rows: int, *, queries: bool) -> RowOrder:
    """Row order of a RoPE projection: Hugging Face keeps the two halves of a head apart, GGUF
    puts the two numbers that RoPE turns together next to each other."""
    heads = config["num_attention_heads"] if queries else common.key_value_heads(config)
    order = np.arange(rows, dtype=np.int64).reshape(int(heads), 2, -1)
    return order.swapaxes(1, 2).reshape(rows)


def to_metadata(config: Config) -> Entries:
    """GGUF metadata (keys without the architecture's prefix) of a Llama config.json."""
    return [
        *common.usual_metadata(config, computed=("llama3", *longrope.NAMES)),
        *_longrope_metadata(config),
        *common.head_size_metadata(config),
        ("vocab_size", "uint32", config["vocab_size"]),
        ("rope.dimension_count", "uint32", common.head_size(config)),
    ]


def _longrope_metadata(config: Config) -> Entries:
    if common.rope_scaling(config).get("rope_type") not in longrope.NAMES:
        return []
    return [
        ("rope.scaling.type", "string", "longrope"),
        ("rope.scaling.original_context_length", "uint32", longrope.original_context(config)),
        ("rope.scaling.attn_factor", "float32", longrope.attention_factor(config)),
    ]


def extra_tensors(config: Config) -> Iterator[tuple[str, Floats]]:
    """LongRoPE's factors, or `rope_freqs.weight`, float32 [head size / 2]: Llama 3's.

    A frequency whose wavelength is below the model's original context is left alone, one far
    above it is slowed down by `factor`, those in between are blended (Llama 3.1's scheme).
    """
    scaling = common.rope_scaling(config)
    if scaling.get("rope_type") in longrope.NAMES:
        yield from longrope.factor_tensors(config, common.head_size(config))
    if scaling.get("rope_type") == "llama3":
        factors = llama3_factors(scaling, common.rope_theta(config), common.head_size(config))
        yield "rope_freqs.weight", factors


def llama3_factors(scaling: Config, base: float, size: int) -> Floats:
    exponents = np.arange(0, size, 2, dtype=np.float32) / np.float32(size)
    # In double precision, then rounded: NumPy's float32 power is off by a bit where torch's, which
    # llama.cpp's converter takes, is not.
    powers = np.power(np.float64(base), exponents.astype(np.float64)).astype(np.float32)
    frequencies = np.float32(1.0) / powers
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


LLAMA = Architecture(
    gguf_name="llama",
    hf_names=("LlamaForCausalLM", "MistralForCausalLM"),
    tensors=common.TENSORS,
    layer_tensors=common.LAYER_TENSORS,
    to_config=common.shape_config,
    constants={"attention_bias": False, "mlp_bias": False},
    to_metadata=to_metadata,
    row_order={
        "attn_q": partial(interleaved, queries=True),
        "attn_k": partial(interleaved, queries=False),
    },
    extra_tensors=extra_tensors,
    biases=(*BIASES, "attn_output", "ffn_gate", "ffn_up", "ffn_down"),
)
