"""Embeddings of texts from the served model: the mean of its last hidden states."""

from __future__ import annotations

import concurrent.futures
from collections import deque
from collections.abc import Sequence

import numpy as np

from tuneserve.errors import TuneserveError
from tuneserve.llama import LlamaModel, backend, forget_errors, last_error, physical_cores
from tuneserve.serve.engine.context import TokenBatch
from tuneserve.serve.engine.types import EngineError
from tuneserve.settings import ServeSettings

EMBEDDING_CONTEXT = 2048
"""Longest text in tokens. Pooling needs a text in one micro-batch, which takes memory."""

_POOLING_MEAN = 1  # llama_pooling_type


class EmbeddingJob:
    """Texts to embed one after the other, and where their vectors go."""

    def __init__(self, texts: Sequence[Sequence[int]]) -> None:
        self.future: concurrent.futures.Future[list[list[float]]] = concurrent.futures.Future()
        self._left = deque(texts)
        self._vectors: list[list[float]] = []

    def advance(self, embedder: Embedder) -> bool:
        """Embed the next text. True: the job has ended, be it because nobody waits for it."""
        if self.future.cancelled():
            return True
        try:
            self._vectors.append(embedder.embed(self._left.popleft()))
        except EngineError as error:
            self.fail(error)
            return True
        if self._left:
            return False
        # A future that runs can't be cancelled: it is told so only now, when it is about to end.
        if self.future.set_running_or_notify_cancel():
            self.future.set_result(self._vectors)
        return True

    def fail(self, error: EngineError) -> None:
        if self.future.set_running_or_notify_cancel():
            self.future.set_exception(error)


class Embedder:
    """A small context of its own beside the engine's, on the same model."""

    def __init__(self, model: LlamaModel, settings: ServeSettings) -> None:
        self._api = backend()
        params = self._api.llama_context_default_params()
        size = min(EMBEDDING_CONTEXT, model.n_ctx_train)
        params.n_ctx = params.n_batch = params.n_ubatch = size
        params.n_seq_max = 1
        params.embeddings = True
        params.pooling_type = _POOLING_MEAN
        params.flash_attn_type = 1 if settings.flash_attention else 0
        params.n_threads = params.n_threads_batch = settings.threads or physical_cores()
        forget_errors()
        self._handle = self._api.llama_init_from_model(model.handle, params)
        if not self._handle:
            raise TuneserveError(
                f"llama.cpp can't make a context for embeddings: {last_error()}",
                where=str(model.path),
                hint="Try fewer --gpu-layers, or leave --embeddings out.",
            )
        self._size = int(self._api.llama_model_n_embd(model.handle))
        self._batch = TokenBatch(size)

    def close(self) -> None:
        if self._handle:
            self._api.llama_free(self._handle)
            self._handle = None

    def embed(self, tokens: Sequence[int]) -> list[float]:
        """A vector of length 1. Raises EngineError if llama.cpp fails."""
        self._api.llama_memory_clear(self._api.llama_get_memory(self._handle), True)
        self._batch.clear()
        self._batch.add(list(tokens), 0, 0, want_last=True)
        self._batch.want_all()
        forget_errors()
        status = self._api.llama_decode(self._handle, self._batch.as_struct())
        pointer = self._api.llama_get_embeddings_seq(self._handle, 0) if status == 0 else None
        if not pointer:
            raise EngineError(f"embedding failed with status {status}: {last_error()}")
        vector = np.ctypeslib.as_array(pointer, (self._size,)).astype(np.float64)
        return [float(value) for value in vector / max(float(np.linalg.norm(vector)), 1e-12)]
