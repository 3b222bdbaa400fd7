"""Beginnings of finished requests in ordinary RAM, out of the KV cache's way.

On a CPU every cell that is in use costs attention time in every step, whoever holds it: prefixes
left in the KV cache made eight running answers a third slower. Copied out they cost nothing but
RAM, and copying one back takes a fraction of the time that computing it again would.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tuneserve.serve.engine.context import SequenceContext
from tuneserve.serve.engine.memory import KeptPrefix, PrefixCache, Tokens

SHORTEST = 32
"""A sequence of fewer tokens is not saved: it is computed again as fast."""

WORTH_COPYING = 8
"""A saved beginning is used if it is longer by so many tokens than what the KV cache has."""


class SavedPrefixes:
    """Saved sequences, within `limit` bytes; the one unused for longest goes first."""

    def __init__(self, context: SequenceContext, limit: int) -> None:
        self._context = context
        self._limit = limit
        self._cache = PrefixCache()
        self._data: dict[int, npt.NDArray[np.uint8]] = {}
        self._next = 0
        self.size = 0

    def __len__(self) -> int:
        return len(self._data)

    def save(self, sequence: int, kept: KeptPrefix) -> None:
        """Copy a sequence out of the KV cache, if it is worth it."""
        if not self._limit or len(kept.tokens) < SHORTEST:
            return
        data = self._context.save(sequence)
        if not 0 < len(data) <= self._limit:
            return
        key, self._next = self._next, self._next + 1
        for other in self._cache.keep(key, kept.adapter, kept.tokens):
            self._drop(other)
        self._data[key] = data
        self.size += len(data)
        while self.size > self._limit:
            oldest = self._cache.oldest()
            self._cache.remove(oldest)
            self._drop(oldest)

    def longest(self, adapter: str | None, tokens: Tokens) -> tuple[int | None, int]:
        """(key, length) of the longest saved beginning of `tokens`."""
        return self._cache.longest(adapter, tokens)

    def tokens_of(self, key: int) -> int:
        """How many cells restoring it takes; 0 if it has gone meanwhile."""
        kept = self._cache.get(key)
        return 0 if kept is None else len(kept.tokens)

    def restore(self, key: int, sequence: int) -> bool:
        """Copy it into an empty sequence; False if the KV cache has no room for it."""
        data = self._data.get(key)
        return data is not None and self._context.restore(sequence, data)

    def _drop(self, key: int) -> None:
        self.size -= len(self._data.pop(key))
