"""The llama.cpp context the engine owns: one KV cache, many sequences, batches from numpy.

All calls belong to one thread. A llama_batch is a struct of pointers; here they point into numpy
arrays that live as long as the batch, so filling one is a few slice assignments.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import numpy.typing as npt

from tuneserve.errors import TuneserveError
from tuneserve.llama import (
    LlamaModel,
    backend,
    cache_type,
    forget_errors,
    last_error,
    physical_cores,
)
from tuneserve.serve.engine.types import EngineError
from tuneserve.settings import ServeSettings

MAX_SEQUENCES = 256  # LLAMA_MAX_SEQ of llama.cpp


class TokenBatch:
    """Room for `size` tokens of any sequences, as llama_decode takes them."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._tokens = np.zeros(size, np.int32)
        self._positions = np.zeros(size, np.int32)
        self._sequences = np.zeros(size, np.int32)
        self._sequence_counts = np.ones(size, np.int32)
        self._wanted = np.zeros(size, np.int8)
        # Each token has a pointer to its list of sequence ids; ours are lists of one.
        self._sequence_pointers = (
            self._sequences.ctypes.data
            + np.arange(size, dtype=np.uint64) * self._sequences.itemsize
        ).astype(np.uint64)
        self._struct = self._make_struct()
        self.count = 0

    def _make_struct(self) -> Any:
        struct = backend().llama_batch()
        int_pointer = ctypes.POINTER(ctypes.c_int32)
        struct.token = self._tokens.ctypes.data_as(int_pointer)
        struct.pos = self._positions.ctypes.data_as(int_pointer)
        struct.n_seq_id = self._sequence_counts.ctypes.data_as(int_pointer)
        struct.seq_id = self._sequence_pointers.ctypes.data_as(ctypes.POINTER(int_pointer))
        struct.logits = self._wanted.ctypes.data_as(ctypes.POINTER(ctypes.c_int8))
        return struct

    def clear(self) -> None:
        self.count = 0

    @property
    def room(self) -> int:
        return self._size - self.count

    def add(self, tokens: list[int], position: int, sequence: int, *, want_last: bool) -> int:
        """Append tokens of a sequence from `position` on; returns the index of the last one.

        `want_last` asks for the logits after it.
        """
        start, end = self.count, self.count + len(tokens)
        if len(tokens) == 1:
            self._tokens[start] = tokens[0]
            self._positions[start] = position
            self._sequences[start] = sequence
        else:
            self._tokens[start:end] = tokens
            self._positions[start:end] = np.arange(position, position + len(tokens))
            self._sequences[start:end] = sequence
            self._wanted[start:end] = 0
        self._wanted[end - 1] = want_last
        self.count = end
        return end - 1

    def want_all(self) -> None:
        """Ask for the outputs of all tokens."""
        self._wanted[: self.count] = 1

    def as_struct(self) -> Any:
        self._struct.n_tokens = self.count
        return self._struct


class SequenceContext:
    """A llama.cpp context for `sequences` sequences in one unified KV cache of settings.ctx."""

    def __init__(self, model: LlamaModel, settings: ServeSettings, *, sequences: int) -> None:
        self._api = backend()
        self._n_vocab = model.n_vocab
        params = self._params(settings, sequences)
        forget_errors()
        self.handle = self._api.llama_init_from_model(model.handle, params)
        if not self.handle:
            raise TuneserveError(
                f"llama.cpp can't make a context of {settings.ctx} tokens: {last_error()}",
                where=str(model.path),
                hint="Try a smaller --ctx, another KV cache type or fewer --gpu-layers.",
            )
        self.n_ctx = int(self._api.llama_n_ctx(self.handle))
        self.n_batch = int(params.n_batch)
        self._memory = self._api.llama_get_memory(self.handle)
        self._outputs = sequences

    def _params(self, settings: ServeSettings, sequences: int) -> Any:
        params = self._api.llama_context_default_params()
        params.n_ctx = settings.ctx
        # Every running sequence has a token in a batch.
        params.n_batch = min(max(settings.batch, settings.slots), settings.ctx)
        params.n_ubatch = min(settings.micro_batch, params.n_batch)
        params.n_seq_max = sequences
        # One row of logits per sequence and call is all that sampling needs.
        params.n_outputs_max = sequences
        params.kv_unified = True
        params.type_k = cache_type(settings.cache_type_k)
        params.type_v = cache_type(settings.cache_type_v)
        params.flash_attn_type = 1 if settings.flash_attention else 0
        params.n_threads = params.n_threads_batch = settings.threads or physical_cores()
        params.no_perf = True
        return params

    def close(self) -> None:
        if self.handle:
            self._api.llama_free(self.handle)
            self.handle = None

    def decode(self, batch: TokenBatch) -> bool:
        """Compute a batch. False: the KV cache has no room for it, and nothing was changed.

        Raises EngineError on any other failure.
        """
        forget_errors()
        status = self._api.llama_decode(self.handle, batch.as_struct())
        if status == 0:
            return True
        if status == 1:
            return False
        raise EngineError(f"llama_decode failed with status {status}: {last_error()}")

    def use_adapter(self, adapter: Any | None) -> None:
        """Compute with this LoRA adapter from now on, or with the base alone."""
        count = 0 if adapter is None else 1
        handles = (self._api.llama_adapter_lora_p_ctypes * 1)(adapter)
        scales = (ctypes.c_float * 1)(1.0)
        status = self._api.llama_set_adapters_lora(self.handle, handles, count, scales)
        if status != 0:
            raise EngineError(f"llama_set_adapters_lora failed with status {status}")

    def logits(self, count: int) -> npt.NDArray[np.float32]:
        """Logits of the last batch's `count` wanted tokens, in batch order: [count, n_vocab].

        A view into llama.cpp's buffer, valid until the next `decode`.
        """
        pointer = self._api.llama_get_logits(self.handle)
        address = ctypes.cast(pointer, ctypes.c_void_p).value
        assert address is not None
        buffer = (ctypes.c_float * (count * self._n_vocab)).from_address(address)
        return np.ctypeslib.as_array(buffer).reshape(count, self._n_vocab)

    def copy_prefix(self, source: int, target: int, length: int) -> None:
        """Let `target` share the first `length` tokens of `source`; no memory is copied."""
        self._api.llama_memory_seq_cp(self._memory, source, target, 0, length)

    def truncate(self, sequence: int, length: int) -> bool:
        """Forget a sequence's tokens from position `length` on; False if the model's memory
        can't (recurrent state)."""
        return bool(self._api.llama_memory_seq_rm(self._memory, sequence, length, -1))

    def save(self, sequence: int) -> npt.NDArray[np.uint8]:
        """A sequence's part of the KV cache, as bytes."""
        size = int(self._api.llama_state_seq_get_size(self.handle, sequence))
        data = np.empty(size, np.uint8)
        pointer = data.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
        written = int(self._api.llama_state_seq_get_data(self.handle, pointer, size, sequence))
        return data[:written]

    def restore(self, sequence: int, data: npt.NDArray[np.uint8]) -> bool:
        """Fill an empty sequence from saved bytes; False if llama.cpp finds no room for it."""
        pointer = data.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
        api = self._api
        return bool(api.llama_state_seq_set_data(self.handle, pointer, len(data), sequence))

    def forget(self, sequence: int) -> None:
        """Free all of a sequence's cells."""
        self._api.llama_memory_seq_rm(self._memory, sequence, -1, -1)
