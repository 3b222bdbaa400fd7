"""Embeddings of texts from the served model: the mean of its last hidden states."""

from __future__ import annotations

import concurrent.futures
from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np

from tuneserve.errors import TuneserveError
from tuneserve.llama import LlamaContext, LlamaModel, TokenBatch
from tuneserve.llama.lora import use_adapter
from tuneserve.serve.engine.request import IN_BACKGROUND
from tuneserve.serve.engine.types import EngineError
from tuneserve.settings import ServeSettings

EMBEDDING_CONTEXT = 2048
"""Longest text in tokens. Pooling needs a text in one micro-batch, which takes memory."""


class EmbeddingJob:
    """Texts to embed one after the other, and where their vectors go."""

    def __init__(self, texts: Sequence[Sequence[int]]) -> None:
        self.future: concurrent.futures.Future[list[list[float]]] = concurrent.futures.Future()
        self.background = IN_BACKGROUND.get()
        self._left = deque(texts)
        self._vectors: list[list[float]] = []

    def advance(self, embedder: Embedder) -> bool:
        """Embed the next text. True: the job has ended (done, failed or cancelled)."""
        if self.future.cancelled():
            return True
        try:
            self._vectors.append(embedder.embed(self._left.popleft()))
        except TuneserveError as error:
            self.fail(EngineError(f"embedding failed: {error.render()}"))
            return True
        if self._left:
            return False
        # A future marked as running can't be cancelled, so it is marked only now, at its end.
        if self.future.set_running_or_notify_cancel():
            self.future.set_result(self._vectors)
        return True

    def fail(self, error: EngineError) -> None:
        if self.future.set_running_or_notify_cancel():
            self.future.set_exception(error)


class Embedder:
    """A small context of its own beside the engine's, on the same model."""

    def __init__(
        self, model: LlamaModel, settings: ServeSettings, adapter: Any | None = None
    ) -> None:
        """`adapter`: llama.cpp's handle of the LoRA that belongs to the model."""
        size = min(EMBEDDING_CONTEXT, model.n_ctx_train)
        self._context = LlamaContext(
            model,
            n_ctx=size,
            n_batch=size,
            n_ubatch=size,
            embeddings=True,
            flash_attention=settings.flash_attention,
            threads=settings.threads,
            hint="Try fewer --gpu-layers, or leave --embeddings out.",
        )
        if adapter is not None:
            use_adapter(self._context, adapter)
        self._batch = TokenBatch(size)

    def close(self) -> None:
        self._context.close()

    def embed(self, tokens: Sequence[int]) -> list[float]:
        """A vector of length 1. Raises TuneserveError if llama.cpp fails."""
        self._context.clear()
        self._batch.clear()
        self._batch.add(tokens, 0, 0, outputs=len(tokens))
        self._context.decode(self._batch)
        vector = self._context.embedding(0).astype(np.float64)
        return [float(value) for value in vector / max(float(np.linalg.norm(vector)), 1e-12)]
