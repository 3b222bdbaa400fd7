"""Sequences in the KV cache: opening them on what is already there, making room, closing them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from tuneserve.serve.engine.context import SequenceContext
from tuneserve.serve.engine.memory import CellLedger, PrefixCache, common_prefix
from tuneserve.serve.engine.saved import WORTH_COPYING, SavedPrefixes


class Running(Protocol):
    """What the store needs to know of a running sequence to share its beginning."""

    sequence: int
    adapter: str | None
    tokens: list[int]
    computed: int


@dataclass(frozen=True, slots=True)
class Source:
    """What begins like a new sequence, for `length` tokens: a sequence in the KV cache, or one
    that was saved (its key), of `saved_tokens` in all."""

    sequence: int | None = None
    length: int = 0
    saved: int | None = None
    saved_tokens: int = 0

    @property
    def shared(self) -> int:
        """Tokens that take no cells of their own."""
        return self.length if self.saved is None else 0


@dataclass(frozen=True, slots=True)
class Keeping:
    """How much of finished requests is kept: cells while nothing runs; beside running requests the
    larger of a share of their cells and a number; and bytes of RAM for the rest."""

    idle_cells: int
    share_beside_running: float
    cells_beside_running: int
    saved_bytes: int


class SequenceStore:
    """The sequences of one context. Ids are handed out here and nowhere else."""

    def __init__(
        self, context: SequenceContext, *, sequences: int, keeping: Keeping, can_share: bool = True
    ) -> None:
        self._keeping = keeping
        self._context = context
        self._ledger = CellLedger(context.n_ctx)
        self._cache = PrefixCache()
        self._saved = SavedPrefixes(context, keeping.saved_bytes)
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
        return len(self._cache) + len(self._saved)

    def find_source(
        self, adapter: str | None, tokens: list[int], running: Iterable[Running]
    ) -> Source:
        """The longest beginning of `tokens` that is kept, running or saved; at least the last
        token is left to compute, since its logits are needed."""
        if not self._can_share:
            return Source()
        wanted = np.asarray(tokens[:-1], np.int32)
        best, best_length = self._cache.longest(adapter, wanted)
        for other in running:
            if other.adapter != adapter or other.computed <= best_length:
                continue
            length = common_prefix(np.asarray(other.tokens[: other.computed], np.int32), wanted)
            if length > best_length:
                best, best_length = other.sequence, length
        key, length = self._saved.longest(adapter, wanted)
        if key is not None and length >= best_length + WORTH_COPYING:
            return Source(None, length, key, self._saved.tokens_of(key))
        return Source(best, best_length)

    def open(self, source: Source) -> tuple[int, int]:
        """A new sequence on the source's beginning: (its id, how many of its tokens are there).

        There are more ids than slots, so one is free or belongs to a kept prefix.
        """
        if not self._ids:
            self._evict(spare=source.sequence)
        sequence = self._ids.pop()
        if source.saved is not None:
            return sequence, self._restore(source, sequence)
        if source.sequence is not None and source.length:
            self._context.copy_prefix(source.sequence, sequence, source.length)
            self._ledger.share(source.sequence, sequence, source.length)
            return sequence, source.length
        return sequence, 0

    def _restore(self, source: Source, sequence: int) -> int:
        """Fill a sequence from RAM; returns how many tokens it has then."""
        assert source.saved is not None
        if source.saved_tokens > self._ledger.free:
            return 0
        if not self._saved.restore(source.saved, sequence):
            return 0
        self._ledger.append(sequence, source.saved_tokens)
        self._context.truncate(sequence, source.length)
        self._ledger.truncate(sequence, source.length)
        return source.length

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

    def tidy(self) -> None:
        """Move one kept prefix out of the KV cache if they hold more of it than they may."""
        kept = self._cache.tokens
        if not kept:
            return
        keeping = self._keeping
        limit = float(keeping.idle_cells)
        if running := self._ledger.tokens - kept:
            beside = max(keeping.cells_beside_running, running * keeping.share_beside_running)
            limit = min(limit, beside)
        if kept > limit:
            self._evict(spare=None)

    def drop_kept(self) -> None:
        """Forget every beginning that the KV cache keeps."""
        for sequence in list(self._cache.sequences):
            self._cache.remove(sequence)
            self.drop(sequence)

    def drop(self, sequence: int) -> None:
        """Close a sequence and free its cells."""
        self._context.forget(sequence)
        self._ledger.forget(sequence)
        self._ids.append(sequence)

    def _evict(self, *, spare: int | None) -> bool:
        """Save the prefix unused for longest, and free its cells."""
        choices = [sequence for sequence in self._cache.sequences if sequence != spare]
        if not choices:
            return False
        sequence = self._cache.oldest(choices)
        self._saved.save(sequence, self._cache.remove(sequence))
        self.drop(sequence)
        return True
