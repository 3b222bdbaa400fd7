"""Are all weights of a base numbers? One that is none may be of a token that no example has: then
training ends well, and the conversion does not."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from tuneserve.arrays import Bytes
from tuneserve.errors import UsageError
from tuneserve.findings import Finding
from tuneserve.llama import physical_cores
from tuneserve.llama.finite import PIECE_BYTES, SMALL_BYTES, Piece, not_finite
from tuneserve.memory import main_memory
from tuneserve.safetensors import StoredTensor, checkpoint_tensors

_TYPES = ("F32", "F16", "BF16", "F64")  # ggml's names are the same


def check_numbers(checkpoint: Path) -> Finding:
    """Raises UsageError naming the tensors that hold anything that is no finite number. Of a base
    that does not fit the memory the small ones are read alone."""
    tensors = checkpoint_tensors(checkpoint)
    size = sum(tensor.size_bytes for tensor in tensors.values())
    most = size if size <= main_memory().available else SMALL_BYTES
    read = {name: one for name, one in tensors.items() if one.size_bytes <= most}
    pieces = [piece for name, one in read.items() for piece in _pieces(name, one)]
    if bad := not_finite(pieces, physical_cores()):
        raise UsageError(
            "weights are no finite numbers", where=str(checkpoint), problems=bad,
            hint="Download or make the base again, and compare its checksums.",
        )  # fmt: skip
    return Finding("weights", "ok", f"finite numbers in {len(read):,} of {len(tensors):,} tensors")


def _pieces(name: str, tensor: StoredTensor) -> Iterator[Piece]:
    """Of a tensor of floats; packed bytes have no other values."""
    if tensor.dtype not in _TYPES:
        return
    rows = tensor.shape[0] if tensor.shape else 1
    step = max(1, PIECE_BYTES * rows // max(1, tensor.size_bytes))
    for start in range(0, rows, step):
        yield name, tensor.dtype, partial(_read, tensor, start, min(start + step, rows))


def _read(tensor: StoredTensor, start: int, stop: int) -> Bytes:
    return np.atleast_1d(tensor.raw(start, stop)).view(np.uint8)
