"""The importance matrix and its file: llama.cpp's imatrix GGUF (tools/imatrix, imatrix-loader)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tuneserve.arrays import Floats
from tuneserve.convert.gguf.model import ComputedTensor
from tuneserve.convert.gguf.quantization import MIXTURES, Choice
from tuneserve.convert.gguf.vocabulary import Value
from tuneserve.convert.gguf.writer import write_gguf
from tuneserve.errors import UsageError
from tuneserve.gguf.reader import GGUFFile

CHUNK = 512
DATASET = "training examples"
SUMS, COUNTS = ".in_sum2", ".counts"
LONGEST_STRING = 127  # bytes of a string that llama-quantize can write
# Types whose rounding has no free choice that a matrix could steer.
FIXED_ROUNDING = ("F16", "BF16", "Q8_0")


def uses_importance(quantization: str) -> bool:
    """Does a quantization come out differently with an importance matrix?"""
    return MIXTURES[quantization].plain not in FIXED_ROUNDING


@dataclass
class Importance:
    """Of one weight: float32 sums of squares [columns], and over how many tokens."""

    sums: Floats
    tokens: int = 0

    def means(self) -> Floats:
        """What the quantizer takes: the mean square by column."""
        return self.sums / np.float32(self.tokens)


@dataclass(frozen=True)
class ImportanceMatrix:
    """Importance by GGUF tensor name; `chunks` of at most `chunk_size` tokens were read."""

    weights: Mapping[str, Importance]
    chunks: int
    chunk_size: int = CHUNK
    datasets: tuple[str, ...] = (DATASET,)

    def means(self) -> dict[str, Floats]:
        return {name: importance.means() for name, importance in self.weights.items()}

    def provenance(self, file_name: str) -> dict[str, Value]:
        """What llama-quantize writes into a GGUF that was quantized with `file_name`."""
        entries: dict[str, Value] = {"quantize.imatrix.file": ("string", _cut(file_name))}
        if self.datasets:
            entries["quantize.imatrix.dataset"] = ("string", _cut(self.datasets[0]))
        entries["quantize.imatrix.entries_count"] = ("uint32", len(self.weights))
        if self.chunks:
            entries["quantize.imatrix.chunks_count"] = ("uint32", self.chunks)
        return entries

    def write(self, path: Path) -> None:
        """Write the file, byte for byte as llama-imatrix would."""
        tensors: dict[str, ComputedTensor] = {}
        for name, importance in sorted(self.weights.items()):
            tensors[name + SUMS] = ComputedTensor(importance.sums)
            tensors[name + COUNTS] = ComputedTensor(np.asarray([importance.tokens], np.float32))
        metadata: dict[str, Value] = {
            "general.type": ("string", "imatrix"),
            "imatrix.datasets": ("array", list(self.datasets)),
            "imatrix.chunk_count": ("uint32", self.chunks),
            "imatrix.chunk_size": ("uint32", self.chunk_size),
        }
        write_gguf(path, metadata, tensors, [Choice(name, "F32") for name in tensors], threads=1)

    @classmethod
    def read(cls, path: Path) -> ImportanceMatrix:
        """Read such a file. Raises UsageError for another kind, or a damaged one."""
        gguf = GGUFFile(path)
        if gguf.get("general.type") != "imatrix":
            raise UsageError("not an importance matrix", where=str(path))
        weights, problems = {}, []
        for name in sorted({_weight_name(tensor) for tensor in gguf.tensors}):
            try:
                weights[name] = _importance(gguf, name)
            except ValueError as error:
                problems.append(f"{name}: {error}")
        if problems or not weights:
            raise UsageError(
                "this importance matrix is damaged", where=str(path),
                problems=problems or ["it has no entries"],
            )  # fmt: skip
        chunks, size = (gguf.require(f"imatrix.chunk_{key}") for key in ("count", "size"))
        datasets = gguf.get("imatrix.datasets", [])
        if not (isinstance(chunks, int) and isinstance(size, int) and isinstance(datasets, list)):
            raise UsageError("this importance matrix is damaged", where=str(path))
        return cls(weights, chunks, size, tuple(map(str, datasets)))


def _weight_name(tensor: str) -> str:
    return tensor.removesuffix(SUMS).removesuffix(COUNTS)


def _importance(gguf: GGUFFile, name: str) -> Importance:
    """One entry. Raises ValueError saying what is wrong with it."""
    for part in (name + SUMS, name + COUNTS):
        if part not in gguf.tensors:
            raise ValueError(f"'{part}' is missing")
        if gguf.type_name(part) != "F32":
            raise ValueError(f"'{part}' is {gguf.type_name(part)}, not F32")
    sums = gguf.dequantized(name + SUMS).reshape(-1)
    counts = gguf.dequantized(name + COUNTS).reshape(-1)
    if len(counts) != 1:
        raise ValueError(f"{len(counts)} counts (a mixture of experts?) instead of 1")
    if not (np.isfinite(counts[0]) and counts[0] >= 1):
        raise ValueError(f"a count of {counts[0]}")
    if not (np.isfinite(sums).all() and (sums >= 0).all()):
        raise ValueError("sums that are negative or not finite")
    return Importance(sums, round(float(counts[0])))


def _cut(text: str) -> str:
    return text.encode()[:LONGEST_STRING].decode("utf-8", "ignore")
