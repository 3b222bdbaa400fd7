"""Are all weights of a file numbers? What is none (NaN, an infinity, a block's scale that is one)
spoils every answer that it reaches, and is to be known when the file is opened."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from tuneserve.arrays import Bytes
from tuneserve.errors import TuneserveError
from tuneserve.gguf.reader import GGUFTensor
from tuneserve.llama import ggml

PIECE_BYTES = 8 << 20
SMALL_BYTES = 1 << 20
"""Tensors of a file that does not fit the memory that are read all the same: norms, biases. What is
in the others shows at the request that meets it."""

Piece = tuple[str, str, Callable[[], Bytes]]
"""Some rows of a tensor: its name, its ggml type, and what reads them as bytes."""


def not_finite(pieces: Iterable[Piece], threads: int) -> list[str]:
    """The tensors that hold anything that is no finite number, in order. So many threads read every
    byte once. In types without such values (I32), or that ggml can't look into (NVFP4), none is
    found."""

    def is_finite(piece: Piece) -> bool:
        _, kind, read = piece
        try:
            ggml.check_values(read(), kind)
        except TuneserveError:
            return False
        return True

    pieces = list(pieces)
    with ThreadPoolExecutor(threads) as pool:
        finite = pool.map(is_finite, pieces)
        return list(dict.fromkeys(
            piece[0] for piece, good in zip(pieces, finite, strict=True) if not good
        ))  # fmt: skip


def mapped_pieces(name: str, tensor: GGUFTensor) -> Iterator[Piece]:
    """All rows of a tensor of a GGUF."""
    data = tensor.data.reshape(-1, tensor.data.shape[-1])
    step = max(1, PIECE_BYTES // data.shape[1])
    for start in range(0, len(data), step):
        yield name, tensor.type_name, partial(_as_they_are, data[start : start + step])


def _as_they_are(data: Bytes) -> Bytes:
    return data
