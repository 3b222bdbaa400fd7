"""Which cells of a KV cache each sequence holds, and which are free."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


class CellAllocator:
    """Reference counts of `size` cells; every sequence holds a list of them, by position.

    A cell is free when no sequence holds it. This repeats llama.cpp's own accounting, which can't
    be asked, so that it is known before decoding whether a batch fits, and up to which cell they
    are in use: as in llama.cpp, a token takes the lowest free one.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.free = size
        self._references = np.zeros(size, np.int32)
        self._held: dict[int, list[int]] = {}
        self._lowest = 0  # no cell below is free
        self.end = 0
        """One more than the highest cell in use."""
        self.tokens = 0
        """Tokens of all sequences together; more than their cells, where they share some."""

    def append(self, sequence: int, count: int) -> None:
        """`count` more tokens of a sequence; there must be room."""
        self._held.setdefault(sequence, []).extend(self._take(count))

    def append_each(self, sequences: Sequence[int]) -> None:
        """One more token of each sequence, in this order; there must be room."""
        for sequence, cell in zip(sequences, self._take(len(sequences)), strict=True):
            self._held.setdefault(sequence, []).append(cell)

    def _take(self, count: int) -> list[int]:
        """The lowest free cells, in use from now on."""
        if count > self.free:
            raise ValueError(f"{count} cells asked for, {self.free} free")
        if not count:
            return []
        width = count
        while True:
            window = self._references[self._lowest : self._lowest + width]
            found = np.flatnonzero(window == 0)
            if len(found) >= count:
                break
            width *= 4
        cells = found[:count] + self._lowest
        self._references[cells] = 1
        self.free -= count
        self.tokens += count
        taken: list[int] = cells.tolist()
        self._lowest = taken[-1] + 1
        self.end = max(self.end, self._lowest)
        return taken

    def share(self, source: int, target: int, length: int) -> None:
        """`target` (empty) holds the first `length` cells of `source` too."""
        cells = self._held[source][:length]
        self._references[cells] += 1
        self._held[target] = cells
        self.tokens += len(cells)

    def truncate(self, sequence: int, length: int) -> None:
        cells = self._held.get(sequence, [])
        dropped = np.array(cells[length:], np.intp)
        if not len(dropped):
            return
        del cells[length:]
        self.tokens -= len(dropped)
        self._references[dropped] -= 1
        freed = dropped[self._references[dropped] == 0]
        if not len(freed):
            return
        self.free += len(freed)
        self._lowest = min(self._lowest, int(freed.min()))
        if int(freed.max()) == self.end - 1:
            used = np.flatnonzero(self._references[: self.end])
            self.end = int(used[-1]) + 1 if len(used) else 0

    def forget(self, sequence: int) -> None:
        self.truncate(sequence, 0)
        self._held.pop(sequence, None)

    def top_of(self, sequence: int) -> int:
        """One more than the highest cell that a sequence holds; 0 if it holds none."""
        return max(self._held.get(sequence, ()), default=-1) + 1
