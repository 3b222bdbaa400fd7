"""A KV cache without a model: what llama.cpp's context does with cells, in plain Python."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


class PlainMemory:
    """Remembers what was asked of it; a saved sequence is `size` bytes, `has_room` False restores
    none.

    `cuttable` False behaves like a recurrent state: no position but the last one can be kept.
    """

    def __init__(self, *, size: int = 100, cuttable: bool = True) -> None:
        self.copied: list[tuple[int, int, int]] = []
        self.saved: list[int] = []
        self.restored: list[int] = []
        self.truncated: list[tuple[int, int]] = []
        self.forgotten: list[int] = []
        self.size = size
        self.has_room = True
        self._cuttable = cuttable

    def copy_prefix(self, source: int, target: int, length: int) -> None:
        assert self._cuttable, "a recurrent state has no prefix to share"
        self.copied.append((source, target, length))

    def truncate(self, sequence: int, length: int) -> bool:
        self.truncated.append((sequence, length))
        return self._cuttable

    def save(self, sequence: int) -> npt.NDArray[np.uint8]:
        self.saved.append(sequence)
        return np.zeros(self.size, np.uint8)

    def restore(self, sequence: int, data: npt.NDArray[np.uint8]) -> bool:
        self.restored.append(sequence)
        return self.has_room

    def forget(self, sequence: int) -> None:
        self.forgotten.append(sequence)
