"""Which layers go to the GPU: all that fit beside the KV cache and the buffers.

llama.cpp's own fitting is C++ and not part of its library, so the sizes are worked out here: the
weights from the GGUF's tensor list, the KV cache from the model's shape, and the buffers from
what llama.cpp's graphs hold at most. A margin is left for what can't be known (the driver, other
programs, fragmentation).
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuneserve.console import human_bytes
from tuneserve.errors import UsageError
from tuneserve.llama import backend
from tuneserve.serve.engine.embedding import EMBEDDING_CONTEXT
from tuneserve.settings import ServeSettings

MARGIN_BYTES = 512 << 20
"""Left free for what the estimate misses."""

CONTEXT_BYTES = 600 << 20
"""What the driver and its libraries take on each GPU before any model is loaded. Memory that is
free is measured after that; a limit the user sets is for all of it."""

BLOCK_TENSOR = re.compile(r"blk\.(\d+)\.")

_GPU_TYPES = (1, 2)  # ggml_backend_dev_type: GPU, integrated GPU

# (elements, bytes) of a block of each KV cache type (ggml.h).
CACHE_BLOCKS = {
    "f32": (1, 4), "f16": (1, 2), "bf16": (1, 2), "q8_0": (32, 34), "q5_1": (32, 24),
    "q5_0": (32, 22), "q4_1": (32, 20), "q4_0": (32, 18),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class ModelSizes:
    """Bytes of a GGUF's tensors, and the shape that its KV cache has."""

    layers: tuple[int, ...]
    output: int
    kv_width: int
    n_embd: int
    n_ff: int
    n_vocab: int

    def kv_bytes_per_layer(self, settings: ServeSettings) -> int:
        """K and V of one layer for settings.ctx tokens, and those of the context for embeddings."""
        total = 2 * 2 * EMBEDDING_CONTEXT * self.kv_width if settings.embeddings else 0
        for name in (settings.cache_type_k, settings.cache_type_v):
            elements, size = CACHE_BLOCKS[name]
            total += settings.ctx * self.kv_width * size // elements
        return total

    def buffer_bytes(self, settings: ServeSettings) -> int:
        """Largest intermediate results of a micro-batch: activations, feed-forward, logits,
        and the attention mask."""
        tokens = min(settings.micro_batch, settings.ctx)
        rows = min(2 * settings.slots + 8, 256)
        floats = tokens * (8 * self.n_embd + 3 * self.n_ff) + rows * self.n_vocab
        total = 4 * floats + 2 * tokens * settings.ctx
        if settings.embeddings:
            # Of a text of full length all activations, and logits though nobody asks for them.
            row = 8 * self.n_embd + 3 * self.n_ff + self.n_vocab
            total += EMBEDDING_CONTEXT * (4 * row + 2 * EMBEDDING_CONTEXT)
        return total


@dataclass(frozen=True, slots=True)
class Fit:
    """How many layers go to the GPU, and why. `layers` counts the output layer as one."""

    layers: int
    total: int
    reason: str


def fit_layers(sizes: ModelSizes, settings: ServeSettings, *, free_bytes: int) -> Fit:
    """The most layers that fit `free_bytes` of GPU memory."""
    total = len(sizes.layers) + 1
    budget = free_bytes - MARGIN_BYTES - sizes.buffer_bytes(settings)
    per_layer_cache = sizes.kv_bytes_per_layer(settings)
    count = 0
    # llama.cpp offloads the last layers first, and the output layer before them.
    for size in [sizes.output, *(one + per_layer_cache for one in reversed(sizes.layers))]:
        if budget < size:
            break
        budget -= size
        count += 1
    reason = (
        f"{count} of {total} layers fit {human_bytes(free_bytes)} of usable GPU memory "
        f"({human_bytes(sum(sizes.layers) + sizes.output)} of weights, "
        f"{human_bytes(per_layer_cache * len(sizes.layers))} of KV cache, "
        f"{human_bytes(sizes.buffer_bytes(settings))} of buffers, "
        f"{human_bytes(MARGIN_BYTES)} left free)"
    )
    return Fit(count, total, reason)


def fit_now(path: Path, settings: ServeSettings) -> Fit:
    """How many layers of this GGUF fit into the GPU memory that is free now, and into
    settings.vram; 0 without a GPU."""
    free = free_gpu_memory()
    if not free:
        return Fit(0, 0, "no GPU that the installed llama-cpp-python can use")
    return fit_layers(read_sizes(path), settings, free_bytes=usable_bytes(free, settings))


def usable_bytes(free: Sequence[int], settings: ServeSettings) -> int:
    """Bytes a model can have in all, of the `free` bytes of each GPU: the GPU that is full
    first ends it where the shares are given, and settings.vram where that is less."""
    used = dict.fromkeys(range(len(free)), 1.0)
    usable = sum(free)
    if settings.split_mode == "none":
        used = {min(settings.main_gpu, len(free) - 1): 1.0}
        usable = free[next(iter(used))]
    elif settings.tensor_split:
        used = {
            index: share / sum(settings.tensor_split)
            for index, share in enumerate(settings.tensor_split[: len(free)])
            if share > 0.0
        }
        usable = int(min((free[index] / share for index, share in used.items()), default=0))
    if settings.vram:
        limit = int(settings.vram * (1 << 30)) - CONTEXT_BYTES * len(used)
        usable = min(usable, max(0, limit))
    return usable


def free_gpu_memory() -> list[int]:
    """Free bytes of each GPU that the installed llama.cpp can use."""
    if not backend().llama_supports_gpu_offload():
        return []
    # The device functions are ggml's; llama-cpp-python loads the library but does not bind them.
    from llama_cpp._ggml import libggml

    libggml.ggml_backend_dev_count.restype = ctypes.c_size_t
    libggml.ggml_backend_dev_get.argtypes = [ctypes.c_size_t]
    libggml.ggml_backend_dev_get.restype = ctypes.c_void_p
    libggml.ggml_backend_dev_type.argtypes = [ctypes.c_void_p]
    size_pointer = ctypes.POINTER(ctypes.c_size_t)
    libggml.ggml_backend_dev_memory.argtypes = [ctypes.c_void_p, size_pointer, size_pointer]
    libggml.ggml_backend_dev_memory.restype = None
    sizes = []
    for index in range(libggml.ggml_backend_dev_count()):
        device = libggml.ggml_backend_dev_get(index)
        if libggml.ggml_backend_dev_type(device) in _GPU_TYPES:
            free, total = ctypes.c_size_t(), ctypes.c_size_t()
            libggml.ggml_backend_dev_memory(device, ctypes.byref(free), ctypes.byref(total))
            sizes.append(free.value)
    return sizes


def read_sizes(path: Path) -> ModelSizes:
    """Tensor sizes and shape from a GGUF's header. Raises UsageError if it can't be read."""
    import gguf

    try:
        reader = gguf.GGUFReader(path)
        architecture = str(reader.fields["general.architecture"].contents())
        layers = [0] * int(reader.fields[f"{architecture}.block_count"].contents())
        output = 0
        for tensor in reader.tensors:
            if block := BLOCK_TENSOR.match(tensor.name):
                layers[int(block.group(1))] += int(tensor.n_bytes)
            elif tensor.name.startswith("output"):
                output += int(tensor.n_bytes)
            elif tensor.name == "token_embd.weight":
                embedding = tensor
        if not any(tensor.name == "output.weight" for tensor in reader.tensors):
            # Tied to the input embedding, of which the GPU then gets a copy.
            output += int(embedding.n_bytes)
        n_embd, n_ff, heads = (
            _largest(reader, f"{architecture}.{key}")
            for key in ("embedding_length", "feed_forward_length", "attention.head_count")
        )
        kv_heads = _largest(reader, f"{architecture}.attention.head_count_kv", default=heads)
        head_size = _largest(
            reader, f"{architecture}.attention.key_length", default=n_embd // heads
        )
        n_vocab = int(embedding.shape[1])
    except (
        KeyError, ValueError, TypeError, IndexError, ZeroDivisionError, OSError, UnboundLocalError,
    ) as error:  # fmt: skip
        raise UsageError(f"its sizes can't be read: {error}", where=str(path)) from error
    return ModelSizes(tuple(layers), output, kv_heads * head_size, n_embd, n_ff, n_vocab)


def _largest(reader: Any, key: str, *, default: int | None = None) -> int:
    """A number of the header; of one for each layer the largest, with which every layer fits.
    Raises KeyError if it is not there."""
    field = reader.fields.get(key)
    if field is None and default is not None:
        return default
    value = reader.fields[key].contents()
    return int(max(value) if isinstance(value, list) else value)
