"""Weights of a row's tokens: exp of the logits, summed by blocks, drawn from by blocks."""

from __future__ import annotations

import threading
from typing import Self

import numpy as np
import numpy.typing as npt

from tuneserve.serve.engine.types import EngineError

Row = npt.NDArray[np.float32]
"""Logits of one position: [n_vocab]."""

Rows = npt.NDArray[np.float32]
"""Logits of several positions: [rows, n_vocab]."""

Blocks = npt.NDArray[np.float32]
"""Weights of rows: [rows, blocks, BLOCK]."""

Ids = npt.NDArray[np.intp]
Mask = npt.NDArray[np.bool_]

BLOCK = 512
"""Weights that are summed in float32; the sums of blocks are summed in float64."""

SAFE_TOTALS = (1e-25, 1e37)
"""Between these a float32 sum of exp(logit) has lost nothing to underflow or overflow."""

COLDEST = 1e-20
"""Temperatures below this are taken as this; their inverse would leave float32."""


class LogitsError(EngineError):
    """The model gave no logits to draw from."""

    def __init__(self) -> None:
        super().__init__("the model's logits are not finite numbers")


class Weights:
    """exp(logit / temperature - shift) of a row's tokens, in the calling thread's memory `name`.

    Raises LogitsError.
    """

    def __init__(self, row: Row, temperature: float = 1.0, name: str = "plain") -> None:
        blocks = _memory.blocks(name, len(row))[0]
        heat = np.float32(max(temperature, COLDEST))
        self._hold(blocks, len(row), 0.0)
        with np.errstate(all="ignore"):
            scaled = row if temperature == 1.0 else np.multiply(row, 1 / heat, out=self.flat)
            np.exp(scaled, out=self.flat)
            self._sum_up()
            if not self.is_safe:
                largest = row.max()
                self.shift = float(largest) / float(heat)
                np.subtract(row, largest, out=self.flat)
                np.divide(self.flat, heat, out=self.flat)
                np.exp(self.flat, out=self.flat)
                self._sum_up()
        if not self.is_safe:
            raise LogitsError

    def _hold(self, blocks: npt.NDArray[np.float32], size: int, shift: float) -> None:
        self._blocks = blocks
        self.flat = blocks.reshape(-1)[:size]
        self.shift = shift
        self.head: Ids | None = None
        """The tokens that hold a share of the total each, if they were looked up."""

    @classmethod
    def of_rows(
        cls, rows: Rows, temperature: float, blocks: Blocks, head: float = 0.0
    ) -> list[Self | None]:
        """Those of several rows, in `blocks` (`empty_blocks`). They are made together: few
        operations on much data, during which NumPy lets other threads run. None for a row that
        needs a shift. With `head`, the tokens that hold such a share are looked up too."""
        count, size = rows.shape
        flat = blocks.reshape(count, -1)[:, :size]
        with np.errstate(all="ignore"):
            scaled = rows
            if temperature != 1.0:
                heat = np.float32(max(temperature, COLDEST))
                scaled = np.multiply(rows, 1 / heat, out=flat)
            np.exp(scaled, out=flat)
            sums = np.einsum("nij->ni", blocks)
            totals = sums.sum(axis=1, dtype=np.float64)
            bars = (head * totals).astype(np.float32)
            places = np.flatnonzero(flat >= bars[:, np.newaxis]) if head else None
        starts = range(0, count * size, size)
        heads: list[Ids | None] = [None] * count
        if places is not None:
            parts = np.split(places, places.searchsorted(starts[1:]))
            heads = [part - start for part, start in zip(parts, starts, strict=True)]
        made: list[Self | None] = []
        for number, total in enumerate(totals.tolist()):
            weights = cls.__new__(cls)
            weights._hold(blocks[number], size, 0.0)
            weights._sums, weights.total, weights.head = sums[number], total, heads[number]
            made.append(weights if weights.is_safe else None)
        return made

    @property
    def is_safe(self) -> bool:
        """Has the sum lost nothing to underflow or overflow?"""
        low, high = SAFE_TOTALS
        return low < self.total < high

    def _sum_up(self) -> None:
        self._sums = np.einsum("ij->i", self._blocks)
        self.total = float(self._sums.sum(dtype=np.float64))

    def pick(self, random: np.random.Generator) -> int:
        """A token, drawn by weight."""
        block, rest = place(self._sums, random.random())
        return block * BLOCK + place(self._blocks[block], rest)[0]

    def held_by(self, tokens: Mask) -> float:
        """The sum of these tokens' weights."""
        blocks = _memory.blocks("held", len(tokens))[0]
        np.multiply(self.flat, tokens, out=blocks.reshape(-1)[: len(tokens)])
        return float(np.einsum("ij->i", blocks).sum(dtype=np.float64))

    def without(self, tokens: Ids) -> Self:
        """The same, changed: these have no weight."""
        self.flat[tokens] = 0.0
        self._sum_up()
        return self

    def reduce(self, tokens: Ids, by: npt.NDArray[np.floating]) -> None:
        """Take so much from the weights of these tokens, of each at most what it has."""
        self.flat[tokens] = np.maximum(self.flat[tokens] - by, 0.0)
        self._sum_up()

    def keep(self, tokens: Mask) -> None:
        """Let all others have no weight."""
        np.multiply(self.flat, tokens, out=self.flat)
        self._sum_up()


def place(weights: npt.NDArray[np.floating], fraction: float) -> tuple[int, float]:
    """Where in the sum of `weights` a fraction of it in [0, 1) lies: index and fraction of that
    weight, never of one that is 0."""
    sums = weights.cumsum(dtype=np.float64)
    wanted = fraction * float(sums[-1])
    index = int(sums.searchsorted(wanted, side="right"))
    if index == len(sums):
        index = int(sums.searchsorted(sums[-1]))
    before = float(sums[index - 1]) if index else 0.0
    rest = (wanted - before) / float(weights[index])
    return index, min(max(rest, 0.0), 1.0 - 2.0**-53)


def empty_blocks(rows: int, size: int) -> Blocks:
    """Room for the weights of rows with `size` tokens."""
    return np.empty((rows, -(-size // BLOCK), BLOCK), np.float32)


def blocks_of(array: npt.NDArray[np.float32], rows: int, size: int) -> Blocks:
    """The beginning of a flat array as blocks for rows of `size` values, zero where there are
    none."""
    width = -(-size // BLOCK) * BLOCK
    matrix = array[: rows * width].reshape(rows, width)
    matrix[:, size:] = 0.0
    return matrix.reshape(rows, -1, BLOCK)


class _Memory(threading.local):
    """Arrays of the calling thread, made once for rows of any length."""

    def __init__(self) -> None:
        self._arrays: dict[str, npt.NDArray[np.float32]] = {}

    def blocks(self, name: str, size: int) -> Blocks:
        """[1, blocks, BLOCK] for `size` values; zero where there are none."""
        array = self._arrays.get(name)
        if array is None or len(array) < -(-size // BLOCK) * BLOCK:
            array = self._arrays[name] = empty_blocks(1, size).reshape(-1)
        return blocks_of(array, 1, size)


_memory = _Memory()
