"""The importance matrix and its file: llama.cpp's imatrix GGUF (tools/imatrix, imatrix-loader)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tuneserve.arrays import Floats, Ids
from tuneserve.convert.gguf.model import ComputedTensor
from tuneserve.convert.gguf.quantization import Choice
from tuneserve.convert.gguf.vocabulary import Value
from tuneserve.convert.gguf.writer import write_gguf

CHUNK = 512
SUMS, COUNTS = ".in_sum2", ".counts"
LONGEST_STRING = 127  # bytes of a string that llama-quantize can write


@dataclass
class Importance:
    """Of one weight: float32 sums of squares [columns], and over how many tokens.

    Of stacked matrices (experts) the sums are [matrices, columns], and each expert has its own
    number of tokens.
    """

    sums: Floats
    tokens: int | Ids = 0

    def means(self) -> Floats:
        """What the quantizer takes: the mean square by column, 1 where no token came by."""
        counts = np.asarray(self.tokens, dtype=np.float32)[..., None]
        seen: Floats = np.where(counts > 0, self.sums / np.maximum(counts, 1), np.float32(1))
        return seen


@dataclass(frozen=True)
class ImportanceMatrix:
    """Importance by GGUF tensor name; `chunks` of at most `chunk_size` tokens were read."""

    weights: Mapping[str, Importance]
    chunks: int
    chunk_size: int = CHUNK
    dataset: str = "training examples"

    def means(self) -> dict[str, Floats]:
        return {name: importance.means() for name, importance in self.weights.items()}

    def provenance(self, file_name: str) -> dict[str, Value]:
        """What llama-quantize writes into a GGUF that was quantized with `file_name`."""
        return {
            "quantize.imatrix.file": ("string", _cut(file_name)),
            "quantize.imatrix.dataset": ("string", _cut(self.dataset)),
            "quantize.imatrix.entries_count": ("uint32", len(self.weights)),
            "quantize.imatrix.chunks_count": ("uint32", self.chunks),
        }

    def write(self, path: Path) -> None:
        """Write the file, byte for byte as llama-imatrix would."""
        tensors: dict[str, ComputedTensor] = {}
        for name, importance in sorted(self.weights.items()):
            tensors[name + SUMS] = ComputedTensor(importance.sums)
            counts = np.asarray(importance.tokens, np.float32).reshape(-1, 1)
            tensors[name + COUNTS] = ComputedTensor(counts if len(counts) > 1 else counts[0])
        metadata: dict[str, Value] = {
            "general.type": ("string", "imatrix"),
            "imatrix.datasets": ("array", [self.dataset]),
            "imatrix.chunk_count": ("uint32", self.chunks),
            "imatrix.chunk_size": ("uint32", self.chunk_size),
        }
        write_gguf(path, metadata, tensors, [Choice(name, "F32") for name in tensors], threads=1)


def _cut(text: str) -> str:
    return text.encode()[:LONGEST_STRING].decode("utf-8", "ignore")
