"""A GGUF's tensors by rows, read from the file when asked for.

A mapped file's pages count as this process's memory; here only the rows in hand do.
"""

from __future__ import annotations

import numpy as np

from tuneserve.arrays import Bytes, Floats, Ids
from tuneserve.convert.slabs import row_count
from tuneserve.gguf.reader import GGUFFile
from tuneserve.llama import ggml


class TensorFile(GGUFFile):
    """An open GGUF whose rows are read as bytes or float32."""

    def encoded(self, name: str, start: int, stop: int) -> Bytes:
        """Rows [start, stop) as they are stored (of a vector: all of it; of a stack of matrices:
        all their rows one after the other)."""
        tensor = self.tensor(name)
        size = tensor.size // row_count(tensor.shape) if len(tensor.shape) > 1 else tensor.size
        if len(tensor.shape) == 1:
            start, stop = 0, 1
        with self.path.open("rb") as file:
            file.seek(tensor.offset + start * size)
            return np.fromfile(file, dtype=np.uint8, count=(stop - start) * size)

    def rows_at(self, name: str, wanted: Ids) -> Floats:
        """The rows of these numbers, float32 [len(wanted), columns]; of a vector: its elements."""
        shape, kind = self.shape(name), self.type_name(name)
        if len(shape) == 1:
            whole = ggml.dequantize(self.encoded(name, 0, 1), kind, shape[0])
            return whole.reshape(-1)[wanted]
        data = np.concatenate([self.encoded(name, *span) for span in spans_of(wanted)])
        return ggml.dequantize(data, kind, shape[-1])


def spans_of(wanted: Ids) -> list[tuple[int, int]]:
    """(start, stop) of each run of numbers that follow each other."""
    runs = np.split(wanted, np.flatnonzero(np.diff(wanted) != 1) + 1)
    return [(int(run[0]), int(run[-1]) + 1) for run in runs]
