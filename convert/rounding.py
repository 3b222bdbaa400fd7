"""A base's weights as its GGUF will hold them, for training that is to reckon with the rounding."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

from tuneserve.arrays import Floats
from tuneserve.convert.gguf.model import CheckpointTensor, ComputedTensor, GGUFModel
from tuneserve.convert.gguf.quantization import UNQUANTIZED
from tuneserve.convert.gguf.writer import encoded_rows
from tuneserve.convert.merge.checkpoint import MergedCheckpoint
from tuneserve.convert.slabs import made_in_order, one_blas_thread, row_spans
from tuneserve.errors import UsageError
from tuneserve.llama import ggml, physical_cores


class Update(Protocol):
    """The change of a weight by its adapter."""

    def rows(self, start: int, stop: int) -> Floats:
        """Rows [start, stop) of it, float32."""


class StoredWeights:
    """The matrices of a base, by their Hugging Face names, rounded as its GGUF rounds them."""

    def __init__(self, base: Path, quantization: str, *, threads: int) -> None:
        """`threads`: 0 = all cores.

        Raises UsageError for a base that can't be converted, and for one with matrices that a GGUF
        holds in another arrangement.
        """
        self.quantization = quantization
        self._threads = threads or physical_cores()
        self._checkpoint = MergedCheckpoint(base)
        model = GGUFModel(self._checkpoint, base, name=base.name)
        self.types: dict[str, str] = {}
        """ggml type of each matrix that is rounded, by its Hugging Face name."""
        for choice in model.choices(quantization):
            source = model.sources[choice.name]
            if choice.type in UNQUANTIZED:
                continue
            if not isinstance(source, CheckpointTensor) or source.columns is not None:
                raise UsageError(
                    f"'{choice.name}' is arranged otherwise than in the checkpoint: training can't "
                    "reckon with its rounding",
                    where="train.quantization_aware",
                )
            self.types[source.name] = choice.type

    def slabs(self, name: str, update: Update | None) -> Iterator[tuple[int, int, Floats]]:
        """(start, stop, rows [start, stop) of base plus update as stored, float32), in order.

        The quantizer works row by row, so that the order of rows in the GGUF does not matter.
        """
        kind, shape = self.types[name], self._checkpoint.shape(name)

        def stored(span: tuple[int, int]) -> tuple[int, int, Floats]:
            values = self._checkpoint.rows(name, *span)
            if update is not None:
                values = values + update.rows(*span)
            encoded = encoded_rows(ComputedTensor(values), kind, 0, len(values))
            return (*span, ggml.dequantize(encoded, kind, values.shape[-1]))

        with one_blas_thread(), ThreadPoolExecutor(self._threads) as pool:
            yield from made_in_order(pool, stored, row_spans(shape), 2 * self._threads)
