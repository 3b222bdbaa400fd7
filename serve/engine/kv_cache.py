"""The KV cache: which sequence holds which cells, and what is kept of finished requests.

A request is a sequence; each of its computed tokens takes one cell of a cache of fixed size.
Sequences that begin with the same tokens share the cells of that prefix. A finished request leaves
its sequence behind as a cached prefix, so that a later one with the same beginning need not compute
it again; what the KV cache has no room for is offloaded to RAM, and what RAM has no room for is
written to disk, if the user wants that.

`KVCacheManager` is what the scheduler and the engine use. It reaches llama.cpp through
`SequenceMemory` alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from tuneserve.serve.engine.activation import Adapter, alike_until
from tuneserve.serve.engine.cells import CellAllocator
from tuneserve.serve.engine.prefix_disk import DiskPrefixes
from tuneserve.serve.engine.prefixes import (
    SHORTEST_OFFLOADED,
    CachedPrefix,
    OffloadedPrefixes,
    PrefixCache,
    SequenceMemory,
    common_prefix,
)

WORTH_RESTORING = 8
"""An offloaded prefix is used if it is at least this many tokens longer than the match in the KV
cache."""

COPIED_IN_A_STEP = 512
"""Tokens of cached prefixes that a step copies out of the KV cache, a prefix more or less."""

SCATTERED_CELLS = 4096
"""So many tokens are not computed again for the sake of cells without use between theirs."""

COMPACT_CELLS = 2048
"""Fewer cells without use between a prefix's own are no reason to compute it again."""

WORTH_READING = 64
"""And one on disk if it is at least this many tokens longer than any other match."""


WORTH_WAITING = 64
"""And a beginning that another request is computing if it is at least this long."""

WORTH_WAITING_OFFLINE = 24
"""The same where nobody waits for a first token, and a step may be one of few tokens."""


class ComputedTokens(Protocol):
    """A running request, as far as its prefix can be shared."""

    sequence: int
    tokens: list[int]
    computed: int

    @property
    def adapter(self) -> Adapter:
        """What computes it."""


class WaitingTokens(Protocol):
    """A waiting request, as far as it can share a prefix; `scored_pending`: it computes its own."""

    tokens: list[int]

    @property
    def adapter(self) -> Adapter:
        """What computes it."""

    @property
    def scored_pending(self) -> int:
        """Tokens whose outputs are asked for."""


@dataclass(frozen=True, slots=True)
class PrefixMatch:
    """The longest known prefix of a prompt, `length` tokens of it.

    It is either in the KV cache, as the beginning of `sequence`, or in RAM, as the beginning of the
    offloaded prefix `offloaded`, which has `offloaded_tokens` tokens. Neither: nothing matches.
    """

    length: int = 0
    sequence: int | None = None
    offloaded: int | None = None
    offloaded_tokens: int = 0

    @property
    def shared(self) -> int:
        """Tokens whose cells the new sequence shares; restored ones take cells of their own."""
        return self.length if self.offloaded is None else 0


@dataclass(frozen=True, slots=True)
class PrefixLimits:
    """How much of finished requests is kept.

    `idle_cells` of the KV cache while nothing runs; while requests run, the larger of
    `share_beside_running` of their cells and `cells_beside_running`, of these at most
    `cells_beside_each` for every running one. `ram_bytes` for offloaded prefixes, 0 for none.
    """

    idle_cells: int
    share_beside_running: float
    cells_beside_running: int
    ram_bytes: int
    cells_beside_each: int = 1 << 30


class KVCacheManager:
    """The sequences of one KV cache of `cells`. Their ids are handed out here and nowhere else.

    `sequences` is how many there can be; more than can run, so that some are left for cached
    prefixes. `worth_waiting`: tokens of a beginning that a request waits for while another computes
    it. `can_share` False: the model's memory can't be cut at a position (recurrent and hybrid
    models), so nothing is shared and nothing is kept.
    """

    def __init__(
        self,
        memory: SequenceMemory,
        *,
        cells: int,
        sequences: int,
        limits: PrefixLimits,
        can_share: bool = True,
        disk: DiskPrefixes | None = None,
        worth_waiting: int = WORTH_WAITING,
    ) -> None:
        self._memory = memory
        self._worth_waiting = worth_waiting
        self._limits = limits
        self._can_share = can_share
        self._cells = CellAllocator(cells)
        self._cached = PrefixCache()
        self._disk = disk if can_share else None
        # Without RAM for it (on a GPU) nothing is copied while requests run: from cells that many
        # answers took in turn, a copy is as many transfers as it has tokens, for each layer.
        dropped = self._disk.save if self._disk is not None and limits.ram_bytes else None
        self.offloaded = OffloadedPrefixes(memory, limits.ram_bytes, dropped=dropped)
        self._ids = list(range(sequences - 1, -1, -1))
        self._ended = False  # since prefixes were last looked at for high cells

    @property
    def free_cells(self) -> int:
        return self._cells.free

    @property
    def used_cells(self) -> int:
        return self._cells.size - self._cells.free

    @property
    def end(self) -> int:
        """One more than the highest cell in use: on a GPU attention takes as long as if all below
        were."""
        return self._cells.end

    @property
    def cached_prefixes(self) -> int:
        """Finished requests whose prefix is kept, in the KV cache or in RAM."""
        return len(self._cached) + len(self.offloaded)

    def match_prefix(
        self, adapter: Adapter, tokens: list[int], running: Iterable[ComputedTokens]
    ) -> PrefixMatch:
        """The longest prefix of `tokens` that is cached, running or offloaded under this adapter,
        or of the base as far as it is the base's.

        The last token is never part of it: its logits are needed, so it must be computed.
        """
        if not self._can_share:
            return PrefixMatch()
        wanted = np.asarray(tokens[:-1], np.int32)
        best, best_length = self._cached.longest(adapter, wanted)
        for other in running:
            reach = min(other.computed, len(wanted), alike_until(other.adapter, adapter))
            if reach <= best_length or other.tokens[best_length] != tokens[best_length]:
                continue  # It can't be longer.
            length = common_prefix(np.asarray(other.tokens[:reach], np.int32), wanted)
            if length > best_length:
                best, best_length = other.sequence, length
        key, length = self.offloaded.longest(adapter, wanted)
        if self._disk is not None:
            known = max(best_length, length if key is not None else 0)
            read = self._disk.find(adapter, wanted, known + WORTH_READING)
            if read is not None:
                key, length = self.offloaded.put(read), read.length_for(adapter, wanted)
        if key is not None and length >= best_length + WORTH_RESTORING:
            tokens_there = len(self.offloaded[key].tokens)
            return PrefixMatch(length, offloaded=key, offloaded_tokens=tokens_there)
        return PrefixMatch(best_length, sequence=best)

    def will_share(
        self,
        request: WaitingTokens,
        computing: Sequence[ComputedTokens],
        running: Sequence[ComputedTokens],
    ) -> bool:
        """Does one of the `computing` compute a beginning of this request's tokens that is worth
        waiting for, compared with what is known from the `running` or cached ones? Both would take
        cells for it, and the time to compute it."""
        tokens = request.tokens
        if not computing or not self._can_share or request.scored_pending:
            return False
        known: int | None = None
        wanted = np.empty(0, np.int32)
        for other in computing:
            least = self._worth_waiting if known is None else known + self._worth_waiting
            alike = alike_until(other.adapter, request.adapter)
            reach = min(len(other.tokens), len(tokens) - 1, alike)
            if reach < least or other.tokens[least - 1] != tokens[least - 1]:
                continue  # Most differ there.
            if known is None:
                known = self.match_prefix(request.adapter, tokens, running).length
                wanted = np.asarray(tokens[:-1], np.int32)
            length = common_prefix(np.asarray(other.tokens[:reach], np.int32), wanted)
            if length >= max(known, other.computed) + self._worth_waiting:
                return True
        return False

    def allocate(self, match: PrefixMatch) -> tuple[int, int]:
        """A new sequence that begins with the match: (its id, tokens it has already).

        There are more ids than requests that can run, so one is free or a cached prefix has it.
        """
        if not self._ids:
            self._evict(spare=match.sequence)
        sequence = self._ids.pop()
        if match.offloaded is not None:
            return sequence, self._restore(match, sequence)
        if match.sequence is not None and match.length:
            self._memory.copy_prefix(match.sequence, sequence, match.length)
            self._cells.share(match.sequence, sequence, match.length)
            return sequence, match.length
        return sequence, 0

    def _restore(self, match: PrefixMatch, sequence: int) -> int:
        """Fill a sequence from RAM; returns how many tokens it has then."""
        assert match.offloaded is not None
        prefix = self.offloaded.get(match.offloaded)
        if prefix is None or match.offloaded_tokens > self._cells.free:
            return 0
        if not self._memory.restore(sequence, prefix.data):
            return 0
        if not self.offloaded.copies:
            self.offloaded.clear()  # It came from disk.
        self._cells.append(sequence, match.offloaded_tokens)
        self._memory.truncate(sequence, match.length)
        self._cells.truncate(sequence, match.length)
        return match.length

    def make_room(self, count: int, *, spare: int | None = None) -> bool:
        """Evict cached prefixes, the least recently used first, until `count` cells are free.
        `spare` is not evicted. False: there are too few."""
        while self._cells.free < count:
            if not self._evict(spare=spare):
                return False
        return True

    def append(self, sequence: int, count: int) -> None:
        """`count` more tokens of a sequence were computed; there must be room."""
        self._cells.append(sequence, count)

    def append_each(self, sequences: Sequence[int]) -> None:
        """One more token of each of these was computed, in this order; there must be room."""
        self._cells.append_each(sequences)

    def keep(self, sequence: int, length: int) -> None:
        """Of a running sequence's computed tokens only the first `length` are kept."""
        self._memory.truncate(sequence, length)
        self._cells.truncate(sequence, length)

    def release(self, sequence: int, adapter: Adapter, tokens: list[int]) -> None:
        """End a sequence whose computed tokens are `tokens`, and cache it as a prefix."""
        self._ended = True
        kept = self._can_share and (self._limits.idle_cells or self.offloaded.copies)
        if not kept or not tokens:
            self.free(sequence)
            return
        for other in self._cached.add(sequence, CachedPrefix(adapter, np.array(tokens, np.int32))):
            self.free(other)

    def free(self, sequence: int) -> None:
        """End a sequence and free its cells."""
        self._memory.forget(sequence)
        self._cells.forget(sequence)
        self._ids.append(sequence)

    def trim(self) -> None:
        """Evict cached prefixes while they hold more of the KV cache than their limit: all at once,
        so that the prompts that come in take their cells instead of others beyond them; but where
        they are copied, which delays the step, only until COPIED_IN_A_STEP tokens are."""
        cached = self._cached.tokens
        if not cached:
            return
        limits = self._limits
        most = float(limits.idle_cells)
        running = self._running
        if running:
            cells = min(limits.cells_beside_running, limits.cells_beside_each * len(running))
            share = (self._cells.tokens - cached) * limits.share_beside_running
            most = min(most, max(cells, share))
        copied = 0
        while cached > most and copied < COPIED_IN_A_STEP and self._evict(spare=None):
            left = self._cached.tokens
            copied += cached - left if self.offloaded.copies else 0
            cached = left
        if running and self._ended:
            self._ended = False
            self._cut_above(int(most) + max(map(self._cells.end_of, running)))

    @property
    def _running(self) -> list[int]:
        """The sequences of running requests."""
        return [sequence for sequence in self._cells.sequences if sequence not in self._cached]

    def start_low(self, adapter: Adapter, tokens: list[int]) -> None:
        """A request with these tokens ends a time in which none ran. Where prefixes are not copied
        to RAM, it makes room in the lowest cells: of what others left there only as much is kept
        as beside a running request, and of what it begins with all, unless that lies so scattered
        that it would cost more time than to be computed."""
        if self.offloaded.copies:
            return
        match = self.match_prefix(adapter, tokens, [])
        needed, end, own = match.sequence, 0, 0
        if needed is not None:
            end = self._cells.end_of(needed, match.length)
            own = len(self._cached[needed].tokens)
            if end > match.length + COMPACT_CELLS and match.length < SCATTERED_CELLS:
                needed, end, own = None, 0, 0
        limits = self._limits
        most = min(limits.cells_beside_running, limits.cells_beside_each)
        while self._cached.tokens - own > most and self._evict(spare=needed):
            pass
        self._cut_above(most + end)

    def _cut_above(self, bound: int) -> None:
        """Keep of cached prefixes only what lies in the cells below `bound`, if many cells are
        without use. Where prefixes are copied, attention takes no longer for high cells."""
        if self.offloaded.copies or self._cells.end <= self.used_cells + COMPACT_CELLS:
            return
        for sequence, prefix in list(self._cached.items()):
            if sequence not in self._cached:
                continue  # another one has all of it
            length = self._cells.length_below(sequence, bound)
            if length == len(prefix.tokens):
                continue
            del self._cached[sequence]
            if length < SHORTEST_OFFLOADED:
                self.free(sequence)
                continue
            self.keep(sequence, length)
            shorter = CachedPrefix(prefix.adapter, prefix.tokens[:length])
            for other in self._cached.add(sequence, shorter):
                self.free(other)

    def clear_cached(self) -> None:
        """Free every cached prefix in the KV cache, without offloading it."""
        while self._cached:
            self.free(self._cached.popitem(last=False)[0])

    def drop_cached(self, adapter: str) -> None:
        """Free every cached prefix of an adapter that is no more, in the KV cache and in RAM."""
        for sequence in self._cached.drop(adapter):
            self.free(sequence)
        self.offloaded.drop(adapter)

    def store(self) -> None:
        """Write all that is cached to disk, the most recently used last; for the end."""
        if self._disk is None:
            return
        for prefix in self.offloaded.values():
            self._disk.save(prefix)
        for sequence, prefix in self._cached.items():
            self._disk.save(self.offloaded.copy_of(sequence, prefix))

    def _evict(self, *, spare: int | None) -> bool:
        """Offload the least recently used prefix, and free its cells."""
        sequence = next((one for one in self._cached if one != spare), None)
        if sequence is None:
            return False
        self.offloaded.save(sequence, self._cached.pop(sequence))
        self.free(sequence)
        return True
