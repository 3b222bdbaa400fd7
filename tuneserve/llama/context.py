"""A llama.cpp context: one KV cache, many sequences, batches of tokens filled from NumPy.

All calls on a context belong to one thread at a time.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any, Self

import numpy as np

from tuneserve.arrays import Bytes, Floats
from tuneserve.errors import TuneserveError, UsageError
from tuneserve.llama.library import (
    backend,
    cache_type,
    forget_errors,
    last_error,
    physical_cores,
)
from tuneserve.llama.model import LlamaModel
from tuneserve.settings import ServeSettings

MAX_SEQUENCES = 256  # LLAMA_MAX_SEQ of llama.cpp

_NO_ROOM = 1  # llama_decode: the KV cache has no room for the batch
_POOLING_MEAN = 1  # llama_pooling_type

TokenIds = Sequence[int] | np.ndarray[Any, np.dtype[np.integer[Any]]]


class NoRoomError(TuneserveError):
    """The KV cache has no room for a batch; nothing was changed."""


class TokenBatch:
    """Room for `size` tokens of any sequences, as llama_decode takes them.

    A llama_batch is a struct of pointers; here they point into NumPy arrays that live as long as
    the batch, so filling one is a few slice assignments.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._tokens = np.zeros(size, np.int32)
        self._positions = np.zeros(size, np.int32)
        self._sequences = np.zeros(size, np.int32)
        self._sequence_counts = np.ones(size, np.int32)
        self._has_output = np.zeros(size, np.int8)
        # Each token has a pointer to its list of sequence ids; these are lists of one.
        places = np.arange(size, dtype=np.uint64) * np.uint64(self._sequences.itemsize)
        self._own_pointers = np.uint64(self._sequences.ctypes.data) + places
        self._sequence_pointers = self._own_pointers.copy()
        self._ranges = np.arange(MAX_SEQUENCES, dtype=np.int32)  # lists of several point into it
        self._shared = False
        self._struct = self._make_struct()
        self._count = 0

    def _make_struct(self) -> Any:
        struct = backend().llama_batch()
        integers = ctypes.POINTER(ctypes.c_int32)
        struct.token = self._tokens.ctypes.data_as(integers)
        struct.pos = self._positions.ctypes.data_as(integers)
        struct.n_seq_id = self._sequence_counts.ctypes.data_as(integers)
        struct.seq_id = self._sequence_pointers.ctypes.data_as(ctypes.POINTER(integers))
        struct.logits = self._has_output.ctypes.data_as(ctypes.POINTER(ctypes.c_int8))
        return struct

    def __len__(self) -> int:
        return self._count

    @property
    def room(self) -> int:
        return self.size - self._count

    def clear(self) -> None:
        self._count = 0
        if self._shared:
            self._sequence_counts[:] = 1
            self._sequence_pointers[:] = self._own_pointers
            self._shared = False

    def add(self, tokens: TokenIds, position: int, sequence: int, *, outputs: int) -> int:
        """Append tokens of a sequence from `position` on; returns the index of the last one.

        The last `outputs` of them (all, if it is more; none, if it is negative) give outputs:
        logits, or embeddings.
        """
        count = len(tokens)
        start, end = self._count, self._count + count
        if count == 1:
            self._tokens[start] = tokens[0]
            self._positions[start] = position
            self._sequences[start] = sequence
            self._has_output[start] = outputs > 0
        else:
            self._tokens[start:end] = tokens
            self._positions[start:end] = np.arange(position, position + count)
            self._sequences[start:end] = sequence
            self._has_output[start:end] = 0
            self._has_output[max(start, end - outputs) : end] = 1
        self._count = end
        return end - 1

    def add_shared(
        self, tokens: TokenIds, position: int, first: int, count: int, *, outputs: int
    ) -> int:
        """`add` for tokens of the sequences `first` to `first + count - 1`, which begin alike: they
        are computed once. llama.cpp takes it only if none of them has tokens of its own before."""
        start = self._count
        last = self.add(tokens, position, first, outputs=outputs)
        if count > 1:
            pointer = self._ranges.ctypes.data + first * self._ranges.itemsize
            self._sequence_pointers[start : self._count] = pointer
            self._sequence_counts[start : self._count] = count
            self._shared = True
        return last

    def add_each(
        self, tokens: Sequence[int], positions: Sequence[int], sequences: Sequence[int]
    ) -> None:
        """Append a token of each of several sequences, all with an output."""
        start, end = self._count, self._count + len(tokens)
        self._tokens[start:end] = tokens
        self._positions[start:end] = positions
        self._sequences[start:end] = sequences
        self._has_output[start:end] = 1
        self._count = end

    def as_struct(self) -> Any:
        """The llama_batch; valid until the batch is changed."""
        self._struct.n_tokens = self._count
        return self._struct


class LlamaContext:
    """A KV cache and compute buffers over a model. Close it, or use it as a context manager.

    `n_ctx` is the size asked for, in tokens; `cells` what llama.cpp made of it (rounded up);
    `n_batch` the tokens that one call of `decode` takes at most.
    """

    def __init__(
        self,
        model: LlamaModel,
        *,
        n_ctx: int,
        n_batch: int = 512,
        n_ubatch: int = 512,
        n_seq_max: int = 1,
        n_outputs_max: int = 0,
        cache_type_k: str = "f16",
        cache_type_v: str = "f16",
        flash_attention: bool | None = True,
        threads: int = 0,
        kv_unified: bool = True,
        embeddings: bool = False,
        causal: bool = True,
        on_tensor: Any = None,
        on_cpu: bool = False,
        hint: str = "Try a smaller context, another KV cache type or fewer GPU layers.",
    ) -> None:
        """Make a context; the sizes are in tokens.

        `n_outputs_max` bounds the outputs of one batch, and their buffer (0: every token may have
        one). `flash_attention` None leaves it to llama.cpp; `threads` 0 are the physical cores.
        `kv_unified`: the sequences share the cells of `n_ctx`; else each has its equal part.
        `embeddings`: outputs are mean embeddings of sequences instead of logits. `causal`: a model
        whose tokens attend to later ones is refused, except for `embeddings`. `on_tensor` is a
        `ggml_backend_sched_eval_callback`, kept alive by the caller. `on_cpu`: no GPU takes part;
        by default it multiplies large batches, in 16 bits, whatever layers are on it.

        Raises TuneserveError, with `hint`, if there is not enough memory or the combination is
        not possible; UsageError for a model that is not causal.
        """
        self.model = model
        self._api = backend()
        params = self._api.llama_context_default_params()
        params.n_ctx = n_ctx
        params.n_batch = min(n_batch, n_ctx)
        params.n_ubatch = min(n_ubatch, params.n_batch)
        params.n_seq_max = n_seq_max
        if n_outputs_max:
            params.n_outputs_max = n_outputs_max
        params.kv_unified = kv_unified
        params.type_k = cache_type(cache_type_k)
        params.type_v = cache_type(cache_type_v)
        if flash_attention is not None:
            params.flash_attn_type = 1 if flash_attention else 0
        params.n_threads = params.n_threads_batch = threads or physical_cores()
        if embeddings:
            params.embeddings, params.pooling_type = True, _POOLING_MEAN
        if on_tensor is not None:
            params.cb_eval = on_tensor
        if on_cpu:
            params.op_offload = params.offload_kqv = False
        params.no_perf = True
        self.handle = self._create(params, hint)
        self._memory = self._api.llama_get_memory(self.handle)
        attends = bool(self._api.llama_get_causal_attn(self.handle))
        # Without a KV cache llama.cpp lets every token attend to all, whatever the file says.
        self.is_causal = attends and bool(self._memory)
        """Do tokens attend to earlier ones alone?"""
        if not self.is_causal:
            if causal and not embeddings:
                self.close()
                raise UsageError(
                    "the model's tokens attend to later ones, so it can't predict the next token",
                    where=str(model.path),
                    hint="It may be a model for embeddings (serve it with --embeddings).",
                )
            if params.n_ubatch < params.n_batch:
                # llama.cpp ends the process where such a batch has more than one micro-batch.
                self.close()
                params.n_ubatch = params.n_batch
                self.handle = self._create(params, hint)
                self._memory = self._api.llama_get_memory(self.handle)
        self.n_ctx = n_ctx
        self.cells = int(self._api.llama_n_ctx(self.handle))
        self.n_batch = int(params.n_batch)
        self._logits: tuple[tuple[int, int], Floats] | None = None

    def _create(self, params: Any, hint: str) -> Any:
        forget_errors()
        handle = self._api.llama_init_from_model(self.model.handle, params)
        if not handle:
            use = " for embeddings" if params.embeddings else ""
            raise TuneserveError(
                f"llama.cpp can't make a context of {params.n_ctx} tokens{use}: {last_error()}",
                where=str(self.model.path),
                hint=hint,
            )
        return handle

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self.handle:
            self._api.llama_free(self.handle)
            self.handle = None

    # -- computing ----------------------------------------------------------------------------

    def decode(self, batch: TokenBatch) -> None:
        """Compute a batch. Raises NoRoomError if the KV cache has no room for it, TuneserveError
        if llama.cpp fails."""
        forget_errors()
        status = self._api.llama_decode(self.handle, batch.as_struct())
        if status == _NO_ROOM:
            raise NoRoomError(f"llama.cpp found no room for {len(batch)} tokens")
        if status != 0:
            raise TuneserveError(f"llama_decode failed with status {status}: {last_error()}")

    def synchronize(self) -> None:
        """Wait until the device is done, so that a clock reads right."""
        self._api.llama_synchronize(self.handle)

    def batch_logits(self, outputs: int) -> Floats:
        """Logits of the last batch's `outputs` outputs, in batch order: [outputs, n_vocab].

        A view into llama.cpp's buffer, valid until the next `decode`.
        """
        pointer = self._api.llama_get_logits(self.handle)
        key = (ctypes.addressof(pointer.contents), outputs)
        if self._logits is None or self._logits[0] != key:
            buffer = (ctypes.c_float * (outputs * self.model.n_vocab)).from_address(key[0])
            rows = np.ctypeslib.as_array(buffer).reshape(outputs, self.model.n_vocab)
            self._logits = key, rows
        return self._logits[1]

    def token_logits(self, index: int) -> Floats:
        """Logits [n_vocab] of the token at `index` of the last batch; a view like `batch_logits`.
        The token must have been given an output."""
        pointer = self._api.llama_get_logits_ith(self.handle, index)
        return np.ctypeslib.as_array(pointer, (self.model.n_vocab,))

    def embedding(self, sequence: int) -> Floats:
        """The pooled embedding [n_embd] of a sequence of the last batch, not normalised; a view
        like `batch_logits`. Raises TuneserveError if there is none."""
        pointer = self._api.llama_get_embeddings_seq(self.handle, sequence)
        if not pointer:
            raise TuneserveError(f"llama.cpp gave no embedding: {last_error()}")
        return np.ctypeslib.as_array(pointer, (self.model.n_embd,))

    def logits(self, tokens: Sequence[int], *, start: int = 0) -> Floats:
        """Next-token logits of one sequence from an empty cache.

        Returns float32 of shape [len(tokens) - start, n_vocab]; row i is what follows
        tokens[: start + i + 1].
        """
        if len(tokens) > self.n_ctx:
            raise UsageError(f"{len(tokens)} tokens don't fit a context of {self.n_ctx}")
        self.clear()
        rows = np.empty((len(tokens) - start, self.model.n_vocab), dtype=np.float32)
        batch = TokenBatch(self.n_batch)
        for first in range(0, len(tokens), self.n_batch):
            piece = tokens[first : first + self.n_batch]
            end = first + len(piece)
            batch.clear()
            batch.add(piece, first, 0, outputs=end - start)
            self.decode(batch)
            begin = max(first, start)
            if begin < end:
                rows[begin - start : end - start] = self.batch_logits(end - begin)
        return rows

    # -- the KV cache -------------------------------------------------------------------------

    def clear(self) -> None:
        """Forget everything in the KV cache."""
        self._api.llama_memory_clear(self._memory, False)

    def copy_prefix(self, source: int, target: int, length: int) -> None:
        """Let `target` share the first `length` tokens of `source`; no memory is copied."""
        self._api.llama_memory_seq_cp(self._memory, source, target, 0, length)

    def truncate(self, sequence: int, length: int) -> bool:
        """Forget a sequence's tokens from position `length` on; False if the model's memory
        can't (recurrent state)."""
        return bool(self._api.llama_memory_seq_rm(self._memory, sequence, length, -1))

    def save(self, sequence: int) -> Bytes:
        """A sequence's part of the KV cache, as bytes."""
        size = int(self._api.llama_state_seq_get_size(self.handle, sequence))
        data = np.empty(size, np.uint8)
        pointer = data.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
        written = int(self._api.llama_state_seq_get_data(self.handle, pointer, size, sequence))
        return data[:written]

    def restore(self, sequence: int, data: Bytes) -> bool:
        """Fill an empty sequence from saved bytes; False if llama.cpp finds no room for it."""
        pointer = data.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
        api = self._api
        return bool(api.llama_state_seq_set_data(self.handle, pointer, len(data), sequence))

    def forget(self, sequence: int) -> None:
        """Free all of a sequence's cells."""
        self._api.llama_memory_seq_rm(self._memory, sequence, -1, -1)


def served_context(
    model: LlamaModel,
    settings: ServeSettings,
    *,
    n_ctx: int,
    n_batch: int,
    n_seq_max: int,
    n_outputs_max: int = 0,
    kv_unified: bool = True,
    causal: bool = True,
) -> LlamaContext:
    """A context with the KV cache types, attention, micro-batch and threads of the settings."""
    return LlamaContext(
        model,
        n_ctx=n_ctx,
        n_batch=n_batch,
        n_ubatch=settings.micro_batch,
        n_seq_max=n_seq_max,
        n_outputs_max=n_outputs_max,
        cache_type_k=settings.cache_type_k,
        cache_type_v=settings.cache_type_v,
        flash_attention=settings.flash_attention,
        threads=settings.threads,
        kv_unified=kv_unified,
        causal=causal,
    )
