"""Who holds which cells of the KV cache: running sequences, and prefixes kept for later.

With a unified cache, sequences that begin alike share cells: a cell is free when no sequence holds
it any more. `CellLedger` mirrors that exactly, so that the scheduler knows before decoding whether
a batch fits; llama.cpp itself can't be asked.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Tokens = npt.NDArray[np.int32]


class CellLedger:
    """Reference counts of `size` cells; every sequence holds a list of them, by position."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._references = np.zeros(size, np.int32)
        self._free = list(range(size))
        self._held: dict[int, list[int]] = {}

    @property
    def free(self) -> int:
        return len(self._free)

    def length(self, sequence: int) -> int:
        return len(self._held.get(sequence, ()))

    @property
    def tokens(self) -> int:
        """Tokens of all sequences together; more than their cells, where they share some."""
        return sum(map(len, self._held.values()))

    def append(self, sequence: int, count: int) -> None:
        """`count` more tokens of a sequence; there must be room."""
        if count > len(self._free):
            raise ValueError(f"{count} cells asked for, {len(self._free)} free")
        first = len(self._free) - count
        cells = self._free[first:]
        del self._free[first:]
        self._references[cells] = 1
        self._held.setdefault(sequence, []).extend(cells)

    def share(self, source: int, target: int, length: int) -> None:
        """`target` (empty) holds the first `length` cells of `source` too."""
        cells = self._held[source][:length]
        self._references[cells] += 1
        self._held[target] = cells

    def truncate(self, sequence: int, length: int) -> None:
        cells = self._held.get(sequence, [])
        dropped = cells[length:]
        del cells[length:]
        self._references[dropped] -= 1
        self._free.extend(cell for cell in dropped if self._references[cell] == 0)

    def forget(self, sequence: int) -> None:
        self.truncate(sequence, 0)
        self._held.pop(sequence, None)


@dataclass(slots=True)
class KeptPrefix:
    """A finished sequence whose cells stay until they are needed for something else."""

    adapter: str | None
    tokens: Tokens
    last_used: int


class PrefixCache:
    """Finished sequences by their id, found by the longest common prefix, evicted by age."""

    def __init__(self) -> None:
        self._kept: dict[int, KeptPrefix] = {}
        self._clock = 0

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def tokens(self) -> int:
        """Tokens of all kept prefixes together (more than their cells, where they share some)."""
        return sum(len(kept.tokens) for kept in self._kept.values())

    def keep(self, sequence: int, adapter: str | None, tokens: Sequence[int] | Tokens) -> list[int]:
        """Remember a sequence; returns the ids of kept ones that it makes superfluous."""
        new = np.asarray(tokens, np.int32)
        superfluous = [
            other
            for other, kept in self._kept.items()
            if kept.adapter == adapter
            and len(kept.tokens) <= len(new)
            and common_prefix(kept.tokens, new) == len(kept.tokens)
        ]
        for other in superfluous:
            del self._kept[other]
        self._clock += 1
        self._kept[sequence] = KeptPrefix(adapter, new, self._clock)
        return superfluous

    def longest(self, adapter: str | None, tokens: Tokens) -> tuple[int | None, int]:
        """(sequence id, length) of the longest prefix of `tokens` that is kept."""
        best: int | None = None
        best_length = 0
        for sequence, kept in self._kept.items():
            if kept.adapter != adapter:
                continue
            length = common_prefix(kept.tokens, tokens)
            if length > best_length:
                best, best_length = sequence, length
        if best is not None:
            self._clock += 1
            self._kept[best].last_used = self._clock
        return best, best_length

    @property
    def sequences(self) -> Iterable[int]:
        return self._kept

    def get(self, sequence: int) -> KeptPrefix | None:
        return self._kept.get(sequence)

    def remove(self, sequence: int) -> KeptPrefix:
        return self._kept.pop(sequence)

    def oldest(self, choices: Iterable[int] | None = None) -> int:
        """The prefix unused for longest, of `choices` or of all; there must be one."""
        return min(choices or self._kept, key=lambda sequence: self._kept[sequence].last_used)


def common_prefix(a: Tokens, b: Tokens) -> int:
    """Number of equal leading elements."""
    shorter = min(len(a), len(b))
    different = a[:shorter] != b[:shorter]
    first = int(different.argmax()) if shorter else 0
    return first if shorter and different[first] else shorter
