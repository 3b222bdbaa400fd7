"""A llama.cpp batch filled from numpy and decoded: what the measurements share."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tuneserve.errors import TuneserveError
from tuneserve.llama import LlamaContext, backend


class TokenBatch:
    """Tokens of several sequences for one llama_decode call.

    A llama_batch is a struct of pointers; here they point into arrays that live as long as it.
    """

    def __init__(self, context: LlamaContext) -> None:
        self._api = backend()
        self._context = context
        size = context.n_batch
        self._tokens, self._positions, self._sequences = np.zeros((3, size), np.int32)
        self._counts = np.ones(size, np.int32)
        self._wanted = np.zeros(size, np.int8)
        # Each token points to its list of sequence ids; these are lists of one.
        places = np.arange(size, dtype=np.uint64) * np.uint64(self._sequences.itemsize)
        self._pointers = np.uint64(self._sequences.ctypes.data) + places
        self._struct = self._make_struct()

    def _make_struct(self) -> Any:
        struct = self._api.llama_batch()
        integers = ctypes.POINTER(ctypes.c_int32)
        struct.token = self._tokens.ctypes.data_as(integers)
        struct.pos = self._positions.ctypes.data_as(integers)
        struct.n_seq_id = self._counts.ctypes.data_as(integers)
        struct.seq_id = self._pointers.ctypes.data_as(ctypes.POINTER(integers))
        struct.logits = self._wanted.ctypes.data_as(ctypes.POINTER(ctypes.c_int8))
        struct.n_tokens = 0
        return struct

    def __len__(self) -> int:
        return int(self._struct.n_tokens)

    @property
    def room(self) -> int:
        return self._context.n_batch - len(self)

    def extend(
        self,
        tokens: Sequence[int] | npt.NDArray[np.int32],
        position: int,
        sequence: int,
        wanted: int,
    ) -> int:
        """Append tokens of a sequence from `position` on; logits are wanted from the token with
        index `wanted` of them. Returns the batch's place of the last one, by which its logits
        are asked for."""
        start, end = len(self), len(self) + len(tokens)
        self._tokens[start:end] = tokens
        self._positions[start:end] = np.arange(position, position + len(tokens))
        self._sequences[start:end] = sequence
        self._wanted[start:end] = np.arange(len(tokens)) >= wanted
        self._struct.n_tokens = end
        return end - 1

    def decode(self) -> None:
        """Run the batch. The logits stay readable until the next call; the batch is emptied."""
        status = self._api.llama_decode(self._context.handle, self._struct)
        if status != 0:
            raise TuneserveError(f"llama_decode failed with status {status}")
        self._struct.n_tokens = 0

    def logits(self, place: int) -> npt.NDArray[np.float32]:
        """Logits [n_vocab] of the token at `place` of the batch decoded last, without copying."""
        pointer = self._api.llama_get_logits_ith(self._context.handle, place)
        return np.ctypeslib.as_array(pointer, (self._context.model.n_vocab,))

    def all_logits(self, count: int) -> npt.NDArray[np.float32]:
        """Logits [count, n_vocab] of all wanted tokens of the batch decoded last, in its order."""
        pointer = self._api.llama_get_logits(self._context.handle)
        return np.ctypeslib.as_array(pointer, (count, self._context.model.n_vocab))


def clear(context: LlamaContext) -> None:
    """Forget everything in the KV cache."""
    backend().llama_memory_clear(context.memory, False)


def synchronize(context: LlamaContext) -> None:
    """Wait until the device is done, so that a clock reads right."""
    backend().llama_synchronize(context.handle)
