"""Model files: GGUF, safetensors with its index, adapters, tokenizers."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import numpy as np

from fuzz.target import Target, must
from fuzz.targets.scratch import scratch, written
from tuneserve.base.tokenizer_files import check_tokenizer_files
from tuneserve.convert.merge.adapter import Adapter
from tuneserve.convert.merge.checkpoint import MergedCheckpoint
from tuneserve.errors import TuneserveError
from tuneserve.gguf.reader import GGUFFile
from tuneserve.gguf.validation import check_model
from tuneserve.model_files import check_config
from tuneserve.safetensors import (
    STORAGE,
    SafetensorsWriter,
    TensorSpec,
    stored_tensors,
    weight_files,
)

_INDEX = b"INDEX"


def _check_gguf(data: bytes) -> None:
    gguf = GGUFFile(written("model.gguf", data))
    ends = 0
    for name, tensor in gguf.tensors.items():
        must(tensor.offset >= ends, f"{name} overlaps the tensor before it")
        ends = tensor.offset + tensor.size
        must(ends <= len(data), f"{name} lies outside the file")
        must(tensor.data.nbytes == tensor.size, f"{name} is not as long as it says")
    must(len(repr(gguf.metadata)) <= 64 * len(data) + 64, "the metadata grew")
    with suppress(TuneserveError):
        check_model(gguf)
    again = GGUFFile(gguf.path)
    must(repr(again.metadata) == repr(gguf.metadata), "read twice, two results")


def _gguf(
    metadata: Mapping[str, tuple[int, bytes]], tensors: Mapping[str, tuple[int, ...]]
) -> bytes:
    """A GGUF of F32 tensors; values are (type number, packed)."""

    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value.encode())) + value.encode()

    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(metadata))
    for key, (kind, packed) in metadata.items():
        head += text(key) + struct.pack("<I", kind) + packed
    offset = 0
    for name, shape in tensors.items():
        head += text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape[::-1], 0, offset)
        offset += -(-4 * int(np.prod(shape)) // 32) * 32
    return head + bytes(-len(head) % 32) + bytes(range(256)) * (offset // 256 + 1)


def _gguf_seeds() -> dict[str, bytes]:
    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value.encode())) + value.encode()

    words = struct.pack("<IQ", 8, 3) + text("<s>") + text("a") + text("ü")
    metadata = {
        "general.architecture": (8, text("llama")),
        "general.alignment": (4, struct.pack("<I", 32)),
        "llama.block_count": (4, struct.pack("<I", 1)),
        "a.float": (6, struct.pack("<f", 1e-5)),
        "tokenizer.ggml.tokens": (9, words),
        "a.bool": (7, b"\1"),
        "a.wide": (10, bytes(8)),
        "tokenizer.ggml.scores": (9, struct.pack("<IQ3f", 6, 3, 0, 1, 2)),
    }
    tensors: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (3, 8),
        "blk.0.attn_q.weight": (8, 8),
    }
    return {"small": _gguf(metadata, tensors), "empty": _gguf({}, {})}


def _check_safetensors(data: bytes) -> None:
    if data.startswith(_INDEX):
        folder = scratch() / "checkpoint"
        written("checkpoint/model-1.safetensors", b"")
        written("checkpoint/model.safetensors.index.json", data.removeprefix(_INDEX))
        for path in weight_files(folder):
            must(path.resolve().parent == folder.resolve(), f"{path} lies elsewhere")
        return
    tensors = stored_tensors(written("model.safetensors", data))
    for name, tensor in tensors.items():
        if tensor.dtype in STORAGE:
            size = (
                int(np.prod(tensor.shape, dtype=object)) * np.dtype(STORAGE[tensor.dtype]).itemsize
            )
            must(tensor.offset + size <= len(data), f"{name} lies outside the file")
            tensor.raw()


def _safetensors_seeds() -> dict[str, bytes]:
    two = _write_tensors("seed", {"a.weight": (2, 3), "b": (4,)})
    index = {"metadata": {"total_size": 3}, "weight_map": {"a": "model-1.safetensors"}}
    return {"two": two, "index": _INDEX + json.dumps(index).encode()}


def _check_adapter(data: bytes) -> None:
    folder = scratch() / "adapter"
    if not (folder / "adapter_model.safetensors").exists():
        _write_adapter()
    written("adapter/adapter_config.json", data)
    Adapter(folder)


def _write_adapter() -> None:
    written("adapter/adapter_model.safetensors", _weights_seeds()["plain"])


def _adapter_seeds() -> dict[str, bytes]:
    config: dict[str, Any] = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": 2,
        "lora_alpha": 4,
        "target_modules": ["q_proj"],
        "rank_pattern": {},
        "alpha_pattern": {"q_proj": 8},
        "bias": "none",
        "use_rslora": False,
        "use_dora": False,
        "modules_to_save": None,
        "layers_to_transform": None,
        "fan_in_fan_out": False,
        "base_model_name_or_path": "x",
    }
    pattern = {**config, "rank_pattern": {r"^model\.layers\.\d+\.(q|k)_proj$": 2}}
    named = {**config, "target_modules": r".*\.(q_proj|v_proj)"}
    return {
        name: json.dumps(value).encode()
        for name, value in (("plain", config), ("pattern", pattern), ("regex", named))
    }


_PROJECTION = "model.layers.0.self_attn.q_proj"
_TABLE = "model.embed_tokens"


def _check_weights(data: bytes) -> None:
    """Of an adapter, merged into a base of two matrices."""
    base = scratch() / "merge_base"
    if not base.exists():
        written("merge_base/config.json", _config_seeds()["plain"])
        shapes = {f"{_PROJECTION}.weight": (4, 4), f"{_TABLE}.weight": (6, 4)}
        _write_tensors("merge_base/model.safetensors", shapes)
        adapter = {**json.loads(_adapter_seeds()["plain"]), "trainable_token_indices": [1, 3]}
        written("weights/adapter_config.json", json.dumps(adapter).encode())
    written("weights/adapter_model.safetensors", data)
    merged = MergedCheckpoint(base, Adapter(scratch() / "weights"))
    for name in merged.names:
        must(merged.rows(name).shape == merged.shape(name), f"{name} is merged into another shape")


def _weights_seeds() -> dict[str, bytes]:
    factors: dict[str, tuple[int, ...]] = {
        f"base_model.model.{_PROJECTION}.lora_A.weight": (2, 4),
        f"base_model.model.{_PROJECTION}.lora_B.weight": (4, 2),
    }
    magnitude = {f"base_model.model.{_PROJECTION}.lora_magnitude_vector": (4,)}
    bias = {f"base_model.model.{_PROJECTION}.lora_B.bias": (4,)}
    tokens = {f"base_model.model.{_TABLE}.token_adapter.trainable_tokens_delta": (2, 4)}
    whole: dict[str, tuple[int, ...]] = {f"base_model.model.{_TABLE}.weight": (6, 4)}
    kinds: dict[str, dict[str, tuple[int, ...]]] = {
        "plain": factors, "dora": {**factors, **magnitude}, "bias": {**factors, **bias},
        "tokens": {**factors, **tokens}, "whole": whole,
    }  # fmt: skip
    return {name: _write_tensors("seed", shapes) for name, shapes in kinds.items()}


def _write_tensors(name: str, shapes: Mapping[str, tuple[int, ...]]) -> bytes:
    path = written(name, b"")
    specs = [TensorSpec(name, "F32", shape) for name, shape in shapes.items()]
    with SafetensorsWriter(path, specs) as writer:
        for spec in specs:
            writer.write(spec.name, [np.ones(spec.shape, "<f4").tobytes()])
    return path.read_bytes()


def _check_config(data: bytes) -> None:
    path = written("config/config.json", data)
    config = check_config(path)
    native = config.get("model_type") in ("phi3", "deepseek_v2", "deepseek_v3")
    must(native or not config.get("auto_map"), "code of the checkpoint is let through")


def _config_seeds() -> dict[str, bytes]:
    config: dict[str, Any] = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 128,
        "vocab_size": 100,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "max_position_embeddings": 512,
        "tie_word_embeddings": True,
        "eos_token_id": [1, 2],
    }
    inner = {"model_type": "gemma3", "text_config": config}
    return {"plain": json.dumps(config).encode(), "inner": json.dumps(inner).encode()}


def _check_tokenizer(data: bytes) -> None:
    written("tokenizer/tokenizer.json", data)
    check_tokenizer_files(scratch() / "tokenizer")


def _tokenizer_seeds() -> dict[str, bytes]:
    split = {
        "type": "Split",
        "pattern": {"Regex": r"\p{L}+|\s"},
        "behavior": "Isolated",
        "invert": False,
    }
    added = {"id": 3, "content": "<s>", "special": True, "lstrip": False, "rstrip": False}
    tokenizer = {
        "version": "1.0",
        "added_tokens": [{**added, "single_word": False, "normalized": False}],
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "_"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split]},
        "decoder": {"type": "ByteLevel"},
        "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"]},
    }
    return {"bpe": json.dumps(tokenizer).encode()}


TARGETS = (
    Target("gguf", _check_gguf, _gguf_seeds, (b"GGUF", b"general.alignment", b"token_embd.weight")),
    Target(
        "safetensors",
        _check_safetensors,
        _safetensors_seeds,
        (
            *(b'"data_offsets"', b'"shape"', b'"dtype"', b'"F32"', b'"BF16"', b'"__metadata__"'),
            *(b"[0,0]", b'"weight_map"', b'"../x"', b'"/etc/passwd"'),
        ),
    ),
    Target(
        "adapter_config",
        _check_adapter,
        _adapter_seeds,
        (b'"rank_pattern"', b'"(([a-z0-9_.]+)+)+X"', b'"r"', b"null", b"[]", b"{}", b"1e400"),
    ),
    Target(
        "adapter_weights",
        _check_weights,
        _weights_seeds,
        (
            *(b"lora_A", b"lora_B", b"lora_embedding_A", b".base_layer", b"modules_to_save"),
            *(b'"shape":[4]', b'"shape":[]', b'"shape":[2,2,2]', b'"BF16"', b'"I64"'),
        ),
    ),
    Target(
        "config",
        _check_config,
        _config_seeds,
        (b'"auto_map"', b'"hidden_size"', b"-1", b"1e400", b"null", b'"text_config"', b"[1, 2]"),
    ),
    Target(
        "tokenizer",
        _check_tokenizer,
        _tokenizer_seeds,
        (b'"Regex"', b'"(a+)+$"', b'"added_tokens"', b'"merges"', b'"id"', b"-1", b"null"),
    ),
)
