"""Which cells of a KV cache each sequence holds, and which are free."""

from __future__ import annotations

import numpy as np


class CellAllocator:
    """Reference counts of `size` cells; every sequence holds a list of them, by position.

    A cell is free when no sequence holds it. This repeats llama.cpp's own accounting, which can't
    be asked, so that it is known before decoding whether a batch fits.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._references = np.zeros(size, np.int32)
        self._free = list(range(size))
        self._held: dict[int, list[int]] = {}
        self.tokens = 0
        """Tokens of all sequences together; more than their cells, where they share some."""

    @property
    def free(self) -> int:
        return len(self._free)

    def append(self, sequence: int, count: int) -> None:
        """`count` more tokens of a sequence; there must be room."""
        if count > len(self._free):
            raise ValueError(f"{count} cells asked for, {len(self._free)} free")
        first = len(self._free) - count
        cells = self._free[first:]
        del self._free[first:]
        self._references[cells] = 1
        self._held.setdefault(sequence, []).extend(cells)
        self.tokens += count

    def share(self, source: int, target: int, length: int) -> None:
        """`target` (empty) holds the first `length` cells of `source` too."""
        cells = self._held[source][:length]
        self._references[cells] += 1
        self._held[target] = cells
        self.tokens += len(cells)

    def truncate(self, sequence: int, length: int) -> None:
        cells = self._held.get(sequence, [])
        dropped = cells[length:]
        del cells[length:]
        self.tokens -= len(dropped)
        self._references[dropped] -= 1
        self._free.extend(cell for cell in dropped if self._references[cell] == 0)

    def forget(self, sequence: int) -> None:
        self.truncate(sequence, 0)
        self._held.pop(sequence, None)
