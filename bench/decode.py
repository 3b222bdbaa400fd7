"""A llama.cpp batch that is filled token by token and decoded: what the measurements share."""

from __future__ import annotations

from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt

from tuneserve.errors import TuneserveError
from tuneserve.llama import LlamaContext, backend


class TokenBatch:
    """Tokens of several sequences for one llama_decode call. Close it, or use `with`."""

    def __init__(self, context: LlamaContext) -> None:
        self._api = backend()
        self._context = context
        self._batch = self._api.llama_batch_init(context.n_batch, 0, 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._api.llama_batch_free(self._batch)

    def __len__(self) -> int:
        return int(self._batch.n_tokens)

    @property
    def room(self) -> int:
        return self._context.n_batch - len(self)

    def add(self, token: int, position: int, sequence: int, *, wants_logits: bool) -> int:
        """Append a token; returns its place in the batch, by which its logits are asked for."""
        batch, place = self._batch, len(self)
        batch.token[place] = token
        batch.pos[place] = position
        batch.n_seq_id[place] = 1
        batch.seq_id[place][0] = sequence
        batch.logits[place] = wants_logits
        batch.n_tokens = place + 1
        return place

    def decode(self) -> None:
        """Run the batch. The logits stay readable until the next call; the batch is emptied."""
        status = self._api.llama_decode(self._context.handle, self._batch)
        if status != 0:
            raise TuneserveError(f"llama_decode failed with status {status}")
        self._batch.n_tokens = 0

    def logits(self, place: int) -> npt.NDArray[np.float32]:
        """Logits [n_vocab] of the token at `place` of the batch decoded last, without copying."""
        pointer = self._api.llama_get_logits_ith(self._context.handle, place)
        return np.ctypeslib.as_array(pointer, (self._context.model.n_vocab,))


def clear(context: LlamaContext) -> None:
    """Forget everything in the KV cache."""
    backend().llama_memory_clear(context.memory, False)


def synchronize(context: LlamaContext) -> None:
    """Wait until the device is done, so that a clock reads right."""
    backend().llama_synchronize(context.handle)
