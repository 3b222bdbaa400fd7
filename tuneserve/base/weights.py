"""A GGUF's tensors as model.safetensors, one tensor in memory at a time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tuneserve.arrays import Floats
from tuneserve.errors import UsageError
from tuneserve.gguf.architectures.table import Architecture
from tuneserve.gguf.reader import GGUFFile
from tuneserve.safetensors import SafetensorsWriter, TensorSpec

F16_LARGEST = 65504.0
COMPUTED = {"rope_freqs.weight"}  # derived from the config, no weight of the checkpoint


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

    Raises UsageError for tensors the architecture doesn't know, all of them at once.
    """
    names = tensor_names(gguf, architecture)
    dtype = checkpoint_dtype(gguf)
    specs = [TensorSpec(hf_name, dtype, gguf.shape(name)) for name, hf_name in names.items()]
    with SafetensorsWriter(target, specs) as writer:
        for (name, hf_name), spec in zip(names.items(), specs, strict=True):
            values = gguf.dequantized(name)
            order = architecture.gguf_row_order(name, config, len(values))
            if order is not None:
                values = values[np.argsort(order)]
            if (changed := architecture.gguf_values(name)) is not None:
                values = changed.back(values)
            data = encode_values(values, dtype, where=f"{gguf.path}: {name}")
            writer.write(hf_name, [data])
            on_tensor(spec.size_bytes)


def tensor_names(gguf: GGUFFile, architecture: Architecture) -> dict[str, str]:
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
    return names


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
