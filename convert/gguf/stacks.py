"""Stacked matrices (experts) of a GGUF, read by rows from a checkpoint."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

import numpy as np

from tuneserve.arrays import Bytes, Floats
from tuneserve.convert.merge.adapter import LowRank
from tuneserve.convert.merge.checkpoint import MergedCheckpoint
from tuneserve.convert.merge.experts import (
    ExpertParameter,
    Part,
    StackedLowRank,
    read_parameter,
)
from tuneserve.convert.merge.mxfp4 import MXFP4Tensor


@dataclass(frozen=True)
class StackedTensor:
    """The part `cut` (rows, columns) of each matrix of a parameter; `transposed` afterwards."""

    checkpoint: MergedCheckpoint
    parameter: ExpertParameter
    cut: tuple[slice, slice]
    transposed: bool
    # The matrix that was read last, by number: a transposed one is read whole for each slab of it.
    _last: dict[int, Floats] = field(default_factory=dict, repr=False, compare=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    @property
    def matrix(self) -> tuple[int, int]:
        """Rows and columns of one matrix."""
        _, rows, columns = self.parameter.shape
        cut = len(range(rows)[self.cut[0]]), len(range(columns)[self.cut[1]])
        return cut[::-1] if self.transposed else cut

    @property
    def shape(self) -> tuple[int, ...]:
        count, rows, _ = self.parameter.shape
        if count == 1:
            return self.matrix
        # A stack of vectors (biases) has two dimensions.
        return (count, *self.matrix) if rows > 1 else (count, self.matrix[1])

    @property
    def names(self) -> list[str]:
        """The stored tensors that it is made of."""
        return [part.name for part in self._parts]

    def rows(self, start: int, stop: int) -> Floats:
        height, width = self.matrix
        result = np.empty((stop - start, width), dtype=np.float32)
        for number in range(start // height, -(-stop // height)):
            offset = number * height
            first, last = max(start, offset), min(stop, offset + height)
            values = self._matrix_rows(number, first - offset, last - offset)
            result[first - start : last - start] = values
        return result

    def _matrix_rows(self, number: int, start: int, stop: int) -> Floats:
        """Rows [start, stop) of a matrix."""
        rows = self.parameter.shape[1]
        offset = number * rows
        if not self.transposed:
            wanted = range(rows)[self.cut[0]][start:stop]
            span = offset + wanted[0], offset + wanted[-1] + 1
            found = read_parameter(self.parameter, self.checkpoint.rows, *span)
            return found[:: wanted.step, self.cut[1]]
        with self._lock:
            if number not in self._last:
                self._last.clear()
                span = offset, offset + rows
                self._last[number] = read_parameter(self.parameter, self.checkpoint.rows, *span)
            whole = self._last[number]
        return whole[self.cut].T[start:stop]

    @property
    def packed(self) -> MXFP4Tensor | None:
        """What holds it as MXFP4 blocks already, if so."""
        return self.checkpoint.packed(self.parameter.parts[0].name) if self.transposed else None

    def packed_rows(self, start: int, stop: int) -> Bytes:
        """Rows [start, stop) of all matrices together, as MXFP4 blocks."""
        assert self.packed is not None
        height, outputs = self.matrix[0], self.parameter.shape[2]
        pieces = []
        for number in range(start // height, -(-stop // height)):
            offset = number * height
            first, last = max(start, offset) - offset, min(stop, offset + height) - offset
            wanted = range(number * outputs, (number + 1) * outputs)[self.cut[1]][first:last]
            pieces.append(self.packed.packed_rows(wanted))
        return np.concatenate(pieces)

    def put_back(self, values: Floats, into: Floats) -> None:
        """Put a matrix of the stack into its place in the parameter's matrix, in place."""
        into[self.cut] = values.T if self.transposed else values

    def change(self) -> LowRank | StackedLowRank | None:
        """What the adapter adds to each matrix, or to the only one; None if nothing. One without an
        adapter gets zeros."""
        changes = self.checkpoint.changes
        found = {part: changes[part.name] for part in self._parts if part.name in changes}
        if not found:
            return None
        first = next(iter(found.values()))
        if isinstance(first, LowRank) and self.parameter.shape[0] == 1 and not self.transposed:
            return LowRank(first.a[:, self.cut[1]], first.b[self.cut[0]], first.scale)
        if isinstance(first, StackedLowRank):
            a, b = first.a[:, :, self.cut[1]], first.b[:, self.cut[0]]
            if self.transposed:
                a, b = b.transpose(0, 2, 1), a.transpose(0, 2, 1)
            return StackedLowRank(a, b, first.scale)
        count, (height, width) = self.shape[0], self.matrix
        rank = max(change.rank for change in found.values())
        a = np.zeros((count, rank, width), dtype=np.float32)
        b = np.zeros((count, height, rank), dtype=np.float32)
        for part, change in found.items():
            a[part.expert, : change.rank] = change.a
            b[part.expert, :, : change.rank] = change.b * np.float32(change.scale / first.scale)
        return StackedLowRank(a, b, first.scale)

    @property
    def _parts(self) -> list[Part]:
        """The stored parts that the cut goes through."""
        wanted = range(self.parameter.shape[1])[self.cut[0]]
        return [
            part
            for part in self.parameter.parts
            if part.first <= wanted[-1] and part.last > wanted[0]
        ]
