"""A GGUF's tensors as model.safetensors, one tensor in memory at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tuneserve.arrays import Floats
from tuneserve.base.rope import COMPUTED
from tuneserve.errors import UsageError
from tuneserve.gguf.architectures.table import Architecture
from tuneserve.gguf.reader import GGUFFile
from tuneserve.safetensors import SafetensorsWriter, TensorSpec

F16_LARGEST = 65504.0


def checkpoint_dtype(gguf: GGUFFile) -> str:
    """'F32', 'BF16' or 'F16': the smallest that keeps what the file's matrices hold.

    Quantized values are a few bits times a float16 scale, so F16 keeps them to 11 bits, where
    BF16 would cut them to 8.
    """
    types = {gguf.type_name(name) for name in gguf.tensors if len(gguf.shape(name)) > 1}
    if "F32" in types:
        return "F32"
    return "BF16" if "BF16" in types else "F16"


def write_weights(
    gguf: GGUFFile,
    architecture: Architecture,
    config: dict[str, Any],
    target: Path,
    *,
    on_tensor: Callable[[int], None],
) -> None:
    """Write every tensor under its Hugging Face name; `on_tensor` gets its size in bytes.

    Raises UsageError for tensors the architecture doesn't know, and for those that are missing, all
    of them at once.
    """
    names = tensor_names(gguf, architecture, config)
    dtype = checkpoint_dtype(gguf)
    specs = [TensorSpec(hf_name, dtype, gguf.shape(name)) for name, hf_name in names.items()]
    zeros = _absent_biases(names, config, dtype)
    with SafetensorsWriter(target, [*specs, *zeros]) as writer:
        for (name, hf_name), spec in zip(names.items(), specs, strict=True):
            values = gguf.dequantized(name)
            if values.ndim > 1 and not values.any():
                raise UsageError(
                    f"the tensor '{name}' holds nothing but zeros",
                    where=str(gguf.path),
                    hint="A download that was cut off, perhaps: compare its checksum.",
                )
            order = architecture.gguf_row_order(name, config, len(values))
            if order is not None:
                values = values[np.argsort(order)]
            if (changed := architecture.gguf_values(name)) is not None:
                values = changed.back(values)
            data = encode_values(values, dtype, where=f"{gguf.path}: {name}")
            writer.write(hf_name, [data])
            on_tensor(spec.size_bytes)
        for spec in zeros:
            writer.write(spec.name, [bytes(spec.size_bytes)])


_ATTENTION = tuple(f"self_attn.{name}_proj" for name in "qkvo")
_MLP = tuple(f"mlp.{name}_proj" for name in ("gate", "up", "down"))


def _absent_biases(
    names: Mapping[str, str], config: Mapping[str, Any], dtype: str
) -> list[TensorSpec]:
    """Biases that config.json's one switch asks for and the file leaves out: they are zero."""
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    head = config.get("head_dim") or hidden // config["num_attention_heads"]
    sizes = {
        "self_attn.q_proj": head * config["num_attention_heads"],
        "self_attn.k_proj": head * config["num_key_value_heads"],
        "self_attn.v_proj": head * config["num_key_value_heads"],
        "mlp.gate_proj": inner,
        "mlp.up_proj": inner,
    }
    wanted = [
        f"model.layers.{layer}.{module}"
        for layer in range(config["num_hidden_layers"])
        for switch, modules in (("attention_bias", _ATTENTION), ("mlp_bias", _MLP))
        if config.get(switch)
        for module in modules
    ]
    there = set(names.values())
    return [
        TensorSpec(f"{name}.bias", dtype, (sizes.get(name.split(".", 3)[3], hidden),))
        for name in wanted
        if f"{name}.bias" not in there
    ]


def tensor_names(
    gguf: GGUFFile, architecture: Architecture, config: Mapping[str, Any]
) -> dict[str, str]:
    """GGUF name to Hugging Face name of every weight, in the file's order."""
    names: dict[str, str] = {}
    unknown = []
    for name in gguf.tensors:
        hf_name = architecture.hf_name(name)
        if hf_name is not None:
            names[name] = hf_name
        elif name not in COMPUTED:
            unknown.append(name)
    if unknown:
        raise UsageError(
            f"{len(unknown)} tensors don't belong to architecture '{architecture.gguf_name}'",
            where=str(gguf.path),
            problems=unknown,
        )
    _check_layers(gguf, architecture, config, names)
    return names


def _check_layers(
    gguf: GGUFFile, architecture: Architecture, config: Mapping[str, Any], names: Mapping[str, str]
) -> None:
    """Raise UsageError if the file's layers are not those it announces."""
    layers = int(gguf.require(f"{gguf.architecture}.block_count"))
    numbers = {int(name.split(".")[1]) for name in names if name.startswith("blk.")}
    expected = {f"{name}.weight" for name in architecture.tensors} - {"output.weight"}
    for layer in range(min(layers, max(numbers, default=0) + 2)):
        absent = architecture.absent(config, layer)
        expected |= {
            f"blk.{layer}.{name}.weight"
            for name in architecture.layer_tensors
            if f"{name}.weight" not in absent
        }
    missing = sorted(expected - names.keys())
    if missing or numbers != set(range(layers)):
        raise UsageError(
            f"this GGUF announces {layers} layers and has {len(numbers)}"
            if numbers != set(range(layers))
            else f"{len(missing)} tensors are missing from this GGUF",
            where=str(gguf.path),
            problems=missing,
            hint="Download or make it again.",
        )


def encode_values(values: Floats, dtype: str, *, where: str) -> bytes:
    """float32 as little-endian bytes of `dtype`, rounded to nearest even.

    Raises UsageError for values that are not finite or too large for float16.
    """
    largest = float(np.abs(values).max(initial=0.0))
    if not np.isfinite(largest):
        raise UsageError("a weight is not a finite number", where=where)
    if dtype == "F32":
        return values.astype("<f4").tobytes()
    if dtype == "F16":
        if largest > F16_LARGEST:
            raise UsageError(f"a weight ({largest:g}) is too large for float16", where=where)
        return values.astype("<f2").tobytes()
    from gguf import GGMLQuantizationType
    from gguf.quants import quantize

    return bytes(quantize(values, GGMLQuantizationType.BF16).tobytes())
