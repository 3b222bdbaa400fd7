"""Logits that llama.cpp computes from a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tuneserve.arrays import Floats
from tuneserve.llama import LlamaContext, LlamaModel, free_gpu_memory
from tuneserve.llama.lora import load_adapter, use_adapter

SINGLE_THREAD_BYTES = 64 * 1024 * 1024
PROBE_BYTES = 1024**3  # the probe, a temporary file, holds this much of the model's layers


GPU_ROOM = 2 * 1024**3  # beside the weights: cache and buffers of a context


def open_model(path: Path, *, on_gpu: bool = False) -> LlamaModel:
    """The model on the CPU; its weights stay in the mapped file, whose pages the kernel takes back
    when memory is short. `on_gpu`: all of it there. The file is one that a conversion has just
    written (a probe has no vocabulary); what it hands over is tried in a process of its own."""
    return LlamaModel(path, repack=False, gpu_layers=-1 if on_gpu else 0, tried=True)


def fits_gpu(path: Path) -> bool:
    """Is there a GPU that llama.cpp can use, and room on it for all of the file?

    Its sums are rounded otherwise than a CPU's. Where single logits are compared with a limit, the
    CPU computes them; likelihoods and answers tell the same on both, many times sooner on a GPU.
    """
    return has_gpu_room(path.stat().st_size)


def has_gpu_room(size: int) -> bool:
    """Could llama.cpp hold a file of `size` bytes on the GPUs, with a context?"""
    return sum(free_gpu_memory()) >= size + GPU_ROOM


def file_logits(
    path: Path, sequences: Sequence[Sequence[int]], *, threads: int, lora: Path | None = None
) -> list[Floats]:
    """Logits [tokens, vocabulary] of each sequence, with an exact (float32) KV cache; `lora` is a
    GGUF to put on."""
    longest = max(len(ids) for ids in sequences)
    with open_model(path) as model, make_context(model, longest, threads=threads) as context:
        if lora is not None:
            use_adapter(context, load_adapter(model, lora))
        return [context.logits(ids) for ids in sequences]


def make_context(
    model: LlamaModel, longest: int, *, sequences: int = 1, threads: int, on_gpu: bool = False
) -> LlamaContext:
    """A context for `sequences` of at most `longest` tokens each, where the model is. Its KV cache
    is exact; on a GPU it is in 16 bits."""
    # The layers of a small model are done sooner than threads are woken.
    small = model.path.stat().st_size < SINGLE_THREAD_BYTES
    return LlamaContext(
        model, n_ctx=longest * sequences, n_batch=longest, n_seq_max=sequences,
        cache_type_k="f16" if on_gpu else "f32", cache_type_v="f16" if on_gpu else "f32",
        flash_attention=False, on_cpu=not on_gpu, threads=1 if small else threads,
    )  # fmt: skip
