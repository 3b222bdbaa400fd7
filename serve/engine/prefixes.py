"""Prefixes of finished requests: found by their tokens, in the KV cache or copied to RAM."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Protocol

import numpy as np
import numpy.typing as npt

from tuneserve.arrays import Bytes
from tuneserve.serve.engine.activation import Adapter, adapter_key, alike_until

Tokens = npt.NDArray[np.int32]

SHORTEST_OFFLOADED = 32
"""A prefix of fewer tokens is not offloaded: computing it again is as fast."""


class SequenceMemory(Protocol):
    """What the manager needs of llama.cpp's context; sequences are named by small numbers."""

    def copy_prefix(self, source: int, target: int, length: int) -> None:
        """Let `target` (empty) share the first `length` tokens of `source`."""

    def truncate(self, sequence: int, length: int) -> bool:
        """Forget a sequence's tokens from position `length` on; False if that can't be done."""

    def save(self, sequence: int) -> Bytes:
        """A sequence's keys and values, as bytes."""

    def restore(self, sequence: int, data: Bytes) -> bool:
        """Fill an empty sequence from saved bytes; False if there is no room for it."""

    def forget(self, sequence: int) -> None:
        """Free all of a sequence's cells."""


@dataclass(frozen=True, slots=True)
class CachedPrefix:
    """The computed tokens of a finished request; `data`: keys and values of an offloaded one."""

    adapter: Adapter
    tokens: Tokens
    data: Bytes = field(default_factory=lambda: np.empty(0, np.uint8))

    def length_for(self, adapter: Adapter, wanted: Tokens) -> int:
        """The number of leading tokens of a request (of `adapter`, with the tokens `wanted`) that
        this has already."""
        reach = alike_until(self.adapter, adapter)
        return common_prefix(self.tokens[:reach], wanted)


class PrefixCache(OrderedDict[int, CachedPrefix]):
    """Finished sequences by id, the least recently used first; found by longest common prefix.

    One look at the right element spares most comparisons of whole prefixes: they are as many as
    requests that ended, and there is a search for each that comes."""

    @property
    def tokens(self) -> int:
        """Tokens of all prefixes together (more than their cells, where they share some)."""
        return sum(len(prefix.tokens) for prefix in self.values())

    def add(self, sequence: int, new: CachedPrefix) -> list[int]:
        """Remember a sequence; returns the ids of those that it makes superfluous, removed here."""
        superfluous = [
            other
            for other, prefix in self.items()
            if len(prefix.tokens) <= len(new.tokens)
            and prefix.tokens[-1] == new.tokens[len(prefix.tokens) - 1]
            and new.length_for(prefix.adapter, prefix.tokens) == len(prefix.tokens)
        ]
        for other in superfluous:
            del self[other]
        self[sequence] = new
        return superfluous

    def drop(self, adapter: str) -> list[int]:
        """Remove all of an adapter's prefixes; returns their ids."""
        dropped = [key for key, prefix in self.items() if adapter_key(prefix.adapter) == adapter]
        for sequence in dropped:
            del self[sequence]
        return dropped

    def longest(self, adapter: Adapter, tokens: Tokens) -> tuple[int | None, int]:
        """(sequence id, length) of the longest prefix of `tokens` that is cached."""
        best, longest = None, 0
        for sequence, prefix in self.items():
            reach = min(len(prefix.tokens), len(tokens), alike_until(prefix.adapter, adapter))
            if longest >= reach or prefix.tokens[longest] != tokens[longest]:
                continue
            length = common_prefix(prefix.tokens[:reach], tokens)
            if length > longest:
                best, longest = sequence, length
        if best is not None:
            self.move_to_end(best)
        return best, longest


class OffloadedPrefixes(PrefixCache):
    """Copies of finished sequences in RAM, within `limit` bytes; the least recently used is dropped
    first.

    On a CPU attention visits every cell in use in every step, whichever sequence holds it: prefixes
    left in the KV cache made eight running answers a third slower. In RAM they cost no time, and
    copying one back takes a fraction of the time that computing it again would.
    """

    def __init__(
        self,
        memory: SequenceMemory,
        limit: int,
        *,
        dropped: Callable[[CachedPrefix], None] | None = None,
    ) -> None:
        """`dropped` is told what there is no room for."""
        super().__init__()
        self._memory = memory
        self._limit = limit
        self._dropped = dropped
        self._keys = count()

    @property
    def copies(self) -> bool:
        """Is what leaves the KV cache copied, to RAM or to disk?"""
        return bool(self._limit or self._dropped)

    @property
    def size(self) -> int:
        """Bytes of all copies."""
        return sum(len(prefix.data) for prefix in self.values())

    def save(self, sequence: int, prefix: CachedPrefix) -> None:
        """Copy a sequence out of the KV cache, if it is worth it."""
        if len(prefix.tokens) < SHORTEST_OFFLOADED or not self.copies:
            return
        copy = self.copy_of(sequence, prefix)
        if 0 < len(copy.data) <= self._limit:
            self.put(copy)
        elif self._dropped is not None:
            self._dropped(copy)

    def copy_of(self, sequence: int, prefix: CachedPrefix) -> CachedPrefix:
        """A prefix of the KV cache with its keys and values."""
        return replace(prefix, data=self._memory.save(sequence))

    def put(self, prefix: CachedPrefix) -> int:
        """Keep a prefix, until the next one comes at least; returns its key."""
        self._shrink(max(0, self._limit - len(prefix.data)))
        key = next(self._keys)
        self.add(key, prefix)
        return key

    def _shrink(self, size: int) -> None:
        while self.size > size:
            _, prefix = self.popitem(last=False)
            if self._dropped is not None:
                self._dropped(prefix)


def common_prefix(a: Tokens, b: Tokens) -> int:
    """Number of equal leading elements."""
    shorter = min(len(a), len(b))
    different = a[:shorter] != b[:shorter]
    first = int(different.argmax()) if shorter else 0
    return first if shorter and different[first] else shorter
