"""Sequences in the KV cache: opening them on what is already there, making room, closing them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from serve.engine.context import SequenceContext
from serve.engine.memory import CellLedger, PrefixCache, common_prefix


class Running(Protocol):
    """What the store needs to know of a running sequence to share its beginning."""

    sequence: int
    adapter: str | None
    tokens: list[int]
    computed: int


@dataclass(frozen=True, slots=True)
class Source:
    """A sequence that begins like a new one, and for how many tokens."""

    sequence: int | None
    length: int


class SequenceStore:
    """The sequences of one context. Ids are handed out here and nowhere else."""

    def __init__(
        self, context: SequenceContext, *, sequences: int, keep_cells: int, can_share: bool = True
    ) -> None:
        self._keep_cells = keep_cells
        self._context = context
        self._ledger = CellLedger(context.n_ctx)
        self._cache = PrefixCache()
        self._ids = list(range(sequences - 1, -1, -1))
        self._can_share = can_share

    @property
    def free_cells(self) -> int:
        return self._ledger.free

    @property
    def used_cells(self) -> int:
        return self._ledger.size - self._ledger.free

    @property
    def kept_prefixes(self) -> int:
        return len(self._cache)

    def find_source(
        self, adapter: str | None, tokens: list[int], running: Iterable[Running]
    ) -> Source:
        """The longest beginning of `tokens` in the cache, kept or running; at least the last
        token is left to compute, since its logits are needed."""
        if not self._can_share:
            return Source(None, 0)
        wanted = np.asarray(tokens[:-1], np.int32)
        best, best_length = self._cache.longest(adapter, wanted)
        for other in running:
            if other.adapter != adapter or other.computed <= best_length:
                continue
            length = common_prefix(np.asarray(other.tokens[: other.computed], np.int32), wanted)
            if length > best_length:
                best, best_length = other.sequence, length
        return Source(best, best_length)

    def open(self, source: Source) -> int:
        """A new sequence that shares the source's beginning; returns its id.

        There are more ids than slots, so one is free or belongs to a kept prefix.
        """
        if not self._ids:
            self._evict(spare=source.sequence)
        sequence = self._ids.pop()
        if source.sequence is not None and source.length:
            self._context.copy_prefix(source.sequence, sequence, source.length)
            self._ledger.share(source.sequence, sequence, source.length)
        return sequence

    def make_room(self, count: int, *, spare: int | None = None) -> bool:
        """Evict kept prefixes, the oldest first, until `count` cells are free."""
        while self._ledger.free < count:
            if not self._evict(spare=spare):
                return False
        return True

    def grew(self, sequence: int, count: int) -> None:
        """`count` tokens of a sequence were decoded."""
        self._ledger.append(sequence, count)

    def keep(self, sequence: int, adapter: str | None, tokens: list[int]) -> None:
        """Close a sequence but leave its cells for requests that begin alike."""
        if not self._can_share or not tokens:
            self.drop(sequence)
            return
        for other in self._cache.keep(sequence, adapter, tokens):
            self.drop(other)
        # Cells that nobody needs at the moment still cost attention time in every step.
        while self._cache.tokens > self._keep_cells and self._evict(spare=None):
            pass

    def drop(self, sequence: int) -> None:
        """Close a sequence and free its cells."""
        self._context.forget(sequence)
        self._ledger.forget(sequence)
        self._ids.append(sequence)

    def _evict(self, *, spare: int | None) -> bool:
        sequence = self._cache.evict_oldest(spare=spare)
        if sequence is None:
            return False
        self.drop(sequence)
        return True
