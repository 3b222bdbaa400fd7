"""Logits that llama.cpp computes from a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tuneserve.arrays import Floats
from tuneserve.llama import LlamaContext, LlamaModel
from tuneserve.llama.lora import load_adapter, use_adapter

SINGLE_THREAD_BYTES = 64 * 1024 * 1024
PROBE_BYTES = 1024**3  # the probe, a temporary file, holds this much of the model's layers


def open_model(path: Path) -> LlamaModel:
    """The model on the CPU; its weights stay in the mapped file, whose pages the kernel takes back
    when memory is short."""
    return LlamaModel(path, repack=False)


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
    model: LlamaModel, longest: int, *, sequences: int = 1, threads: int
) -> LlamaContext:
    """A context for `sequences` of at most `longest` tokens each."""
    # The layers of a small model are done sooner than threads are woken.
    small = model.path.stat().st_size < SINGLE_THREAD_BYTES
    return LlamaContext(
        model, n_ctx=longest * sequences, n_batch=longest, n_seq_max=sequences,
        cache_type_k="f32", cache_type_v="f32", flash_attention=False, on_cpu=True,
        threads=1 if small else threads,
    )  # fmt: skip
