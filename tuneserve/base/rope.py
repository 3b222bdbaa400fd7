"""A GGUF's RoPE scaling as config.json's `rope_scaling`.

llama.cpp's meaning of the entries is that of src/llama-context.cpp: without a type they are linear
scaling, and YaRN's own factor on the attention is applied besides `attn_factor`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from tuneserve.arrays import Floats
from tuneserve.errors import UsageError
from tuneserve.gguf.architectures.common import shortest
from tuneserve.gguf.architectures.llama import llama3_factors
from tuneserve.gguf.reader import ArchitectureMetadata, GGUFFile

LLAMA3 = "rope_freqs.weight"
LONG, SHORT = "rope_factors_long.weight", "rope_factors_short.weight"
COMPUTED = frozenset({LLAMA3, LONG, SHORT})
"""Tensors that stand in config.json instead."""


def rope_scaling(
    gguf: GGUFFile, metadata: ArchitectureMetadata, config: dict[str, Any]
) -> dict[str, Any]:
    """`rope_scaling`, {} for none. Raises UsageError for what config.json can't say."""
    kind = metadata.get("rope.scaling.type", None)
    factor = metadata.get("rope.scaling.factor", None) or metadata.get("rope.scale_linear", None)
    factor = shortest(factor or 1.0)
    if LONG in gguf.tensors or SHORT in gguf.tensors:
        return _longrope(gguf, metadata, config)
    if LLAMA3 in gguf.tensors:
        if kind not in (None, "none", "linear") or factor != 1.0:
            raise UsageError(
                f"RoPE factors ({LLAMA3}) and RoPE scaling '{kind}' together can't be imported",
                where=str(gguf.path),
            )
        factors = gguf.dequantized(LLAMA3)
        if (found := llama3_scaling(factors, config["rope_theta"], config["head_dim"])) is None:
            raise UsageError(
                f"its RoPE factors ({LLAMA3}) are not of Llama 3's kind", where=str(gguf.path)
            )
        return found
    if kind == "yarn":
        return _yarn(metadata, factor, config)
    if kind not in (None, "none", "linear"):
        raise UsageError(f"RoPE scaling '{kind}' can't be imported", where=str(gguf.path))
    if kind == "none" or factor == 1.0:
        return {}
    return {"rope_type": "linear", "factor": factor}


def _yarn(metadata: ArchitectureMetadata, factor: float, config: dict[str, Any]) -> dict[str, Any]:
    context = metadata.get(
        "rope.scaling.original_context_length", config["max_position_embeddings"]
    )
    scaling = {
        "rope_type": "yarn",
        "factor": factor,
        "original_max_position_embeddings": int(context),
    }
    for name in ("beta_fast", "beta_slow"):
        value = metadata.get(f"rope.scaling.yarn_{name}", None)
        if value is not None:
            scaling[name] = shortest(value)
    attention = metadata.get("rope.scaling.attn_factor", 1.0)
    written = metadata.get("rope.scaling.yarn_attn_factor", None)
    if attention != 1.0:
        scaling["attention_factor"] = float(attention) * (1 + 0.1 * math.log(factor))
    elif written is not None:
        scaling["attention_factor"] = shortest(written)
    return scaling


def _longrope(
    gguf: GGUFFile, metadata: ArchitectureMetadata, config: dict[str, Any]
) -> dict[str, Any]:
    context = int(
        metadata.get("rope.scaling.original_context_length", config["max_position_embeddings"])
    )
    attention = float(metadata.get("rope.scaling.attn_factor", 1.0))
    return {
        "rope_type": "longrope",
        "long_factor": [shortest(value) for value in gguf.dequantized(LONG)],
        "short_factor": [shortest(value) for value in gguf.dequantized(SHORT)],
        "original_max_position_embeddings": context,
        "attention_factor": shortest(attention),
    }


def llama3_scaling(factors: Floats, base: float, size: int) -> dict[str, Any] | None:
    """The `rope_scaling` of type llama3 that gives these factors, float32 [head size / 2]; None if
    there is none.

    Several parameters give the same factors. Those that every Llama 3.x release uses are tried
    first, then those that the blended frequencies give.
    """
    fitting = (
        scaling
        for scaling in _candidates(factors, base, size)
        if len(factors) == size // 2
        and np.allclose(llama3_factors(scaling, base, size), factors, rtol=1e-5)
    )
    return next(fitting, None)


def _candidates(factors: Floats, base: float, size: int) -> Iterator[dict[str, Any]]:
    factor = shortest(factors.max())

    def scaling(low: float, high: float, context: float) -> dict[str, Any]:
        return {
            "rope_type": "llama3",
            "factor": factor,
            "low_freq_factor": low,
            "high_freq_factor": high,
            "original_max_position_embeddings": round(context),
        }

    yield scaling(1.0, 4.0, 8192)
    # 1 / factors = (1 - s) / factor + s is linear in the frequency where it is blended:
    # s = (context / wavelength - low) / (high - low). `low` = 1 is a choice of scale.
    frequencies = 1 / np.power(float(base), np.arange(0, size, 2) / size)
    blended = (factors > 1.0001) & (factors < factor * 0.9999)
    if blended.sum() >= 2:
        share = (1 / factors[blended] - 1 / factor) / (1 - 1 / factor)
        slope, start = np.polyfit(frequencies[blended] / (2 * math.pi), share, 1)
        for low in (1.0, 2.0, 0.5):
            width = -low / start
            yield scaling(low, round(low + width, 3), slope * width)
    for context in (2048, 4096, 8192, 16384, 32768):
        for low, high in ((1.0, 2.0), (1.0, 4.0), (1.0, 8.0), (2.0, 4.0), (1.0, 32.0)):
            yield scaling(low, high, context)
