"""Tiny random GGUFs with the demo's first tokens."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tuneserve.arrays import Floats
from tuneserve.gguf.architectures import by_gguf_name
from tuneserve.gguf.reader import GGUFFile
from tuneserve.llama import ggml

HIDDEN, HEADS, KV_HEADS, INNER, TOKENS = 64, 4, 2, 96, 300
HEAD = HIDDEN // HEADS
YARN = {
    "rope.scaling.type": "yarn", "rope.scaling.factor": 4.0,
    "rope.scaling.original_context_length": 128,
}  # fmt: skip
LINEAR = {"rope.scaling.type": "linear", "rope.scaling.factor": 4.0}


def tensors_of(architecture: str, layers: int) -> dict[str, Floats]:
    """Random weights, wide enough that a fault shows in the logits."""
    random = np.random.default_rng(0)
    matrices = {
        "attn_q": (HIDDEN, HIDDEN), "attn_k": (KV_HEADS * HEAD, HIDDEN),
        "attn_v": (KV_HEADS * HEAD, HIDDEN), "attn_output": (HIDDEN, HIDDEN),
        "ffn_gate": (INNER, HIDDEN), "ffn_up": (INNER, HIDDEN), "ffn_down": (HIDDEN, INNER),
    }  # fmt: skip
    whole = architecture == "olmo2"  # its norms are of all heads together
    sizes = {
        "attn_q_norm": HIDDEN if whole else HEAD, "attn_k_norm": KV_HEADS * HEAD if whole else HEAD,
    }  # fmt: skip
    table = by_gguf_name(architecture).layer_tensors
    norms = {name: sizes.get(name, HIDDEN) for name in table if name.endswith("_norm")}
    found: dict[str, Any] = {
        "token_embd.weight": random.normal(0, 0.15, (TOKENS, HIDDEN)),
        "output_norm.weight": 1 + random.normal(0, 0.1, HIDDEN),
    }
    for layer in range(layers):
        for name, shape in matrices.items():
            found[f"blk.{layer}.{name}.weight"] = random.normal(0, 0.15, shape)
        for name, size in norms.items():
            found[f"blk.{layer}.{name}.weight"] = 1 + random.normal(0, 0.1, size)
    return {name: values.astype(np.float32) for name, values in found.items()}


def biases(layers: int, **sizes: int) -> dict[str, Floats]:
    random = np.random.default_rng(1)
    return {
        f"blk.{layer}.{name}.bias": random.normal(0, 0.3, size).astype(np.float32)
        for layer in range(layers)
        for name, size in sizes.items()
    }


def write_tiny(
    path: Path,
    demo: GGUFFile,
    *,
    architecture: str = "llama",
    layers: int = 2,
    entries: Mapping[str, Any] | None = None,
    tensors: Mapping[str, Floats] | None = None,
    without: Collection[str] = (),
    types: Mapping[str, str] | None = None,
    split: tuple[int, int, int] | None = None,
) -> Path:
    """A GGUF with `entries` under the architecture's prefix (None: without that one), further
    `tensors` and `without` some; `types` of tensors, where not the usual ones;
    `split`: number, count and all tensors of the part that it is."""
    from gguf import GGMLQuantizationType, GGUFWriter

    writer = GGUFWriter(path, architecture)
    sizes = {
        "block_count": layers, "context_length": 512, "embedding_length": HIDDEN,
        "feed_forward_length": INNER, "attention.head_count": HEADS,
        "attention.head_count_kv": KV_HEADS, "attention.layer_norm_rms_epsilon": 1e-5,
        "rope.freq_base": 10000.0, "attention.key_length": HEAD, "attention.value_length": HEAD,
        **(entries or {}),
    }  # fmt: skip
    for key, value in sizes.items():
        if value is None:
            continue
        if isinstance(value, list):
            writer.add_array(f"{architecture}.{key}", value)
            continue
        add = {int: writer.add_uint32, float: writer.add_float32, str: writer.add_string,
               bool: writer.add_bool}  # fmt: skip
        add[type(value)](f"{architecture}.{key}", value)
    tokens = demo.require("tokenizer.ggml.tokens")[:TOKENS]
    merges = demo.require("tokenizer.ggml.merges")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types(demo.require("tokenizer.ggml.token_type")[:TOKENS])
    writer.add_token_merges([m for m in merges if m.replace(" ", "") in set(tokens)])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    if split:
        writer.add_uint16("split.no", split[0])
        writer.add_uint16("split.count", split[1])
        writer.add_int32("split.tensors.count", split[2])
    for name, values in {**tensors_of(architecture, layers), **(tensors or {})}.items():
        if name in without:
            continue
        if kind := (types or {}).get(name):
            quantized = ggml.quantize(values, kind)
            writer.add_tensor(name, quantized, raw_dtype=GGMLQuantizationType[kind])
        else:
            writer.add_tensor(name, values.astype(np.float16) if values.ndim > 1 else values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
