"""Reading a GGUF's metadata and tensors, with one clear error where it is damaged.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. The gguf package's reader makes
several NumPy objects of every string, half a minute for a vocabulary of 150,000 tokens; this one
takes a second.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tuneserve.errors import UsageError
from tuneserve.llama import check_is_gguf

VERSIONS = (2, 3)
ALIGNMENT = 32
STRING, ARRAY = 8, 9
# GGUF value type number → struct format.
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q",
           12: "d"}  # fmt: skip


@dataclass(frozen=True)
class GGUFTensor:
    """A tensor's type number, its row-major shape, and its bytes [..., bytes of a row], mapped."""

    type: int
    shape: tuple[int, ...]
    data: npt.NDArray[np.uint8]

    @property
    def type_name(self) -> str:
        """'F32', 'Q4_1', …"""
        from gguf import GGMLQuantizationType

        return str(GGMLQuantizationType(self.type).name)

    @property
    def n_elements(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64))


class GGUFFile:
    """An open GGUF: `metadata` as Python values, their `value_types` as the format numbers them,
    `tensors` by name."""

    def __init__(self, path: Path) -> None:
        """Map the file. Raises UsageError if it is missing, no GGUF, or cut short."""
        check_is_gguf(path)
        self.path = path
        try:
            reader = _Reader(np.memmap(path, mode="r"))
            self.metadata, self.tensors = reader.metadata(), reader.tensors()
            self.value_types = reader.value_types
        except (ValueError, KeyError, struct.error, OverflowError, MemoryError) as error:
            raise UsageError(
                "this GGUF is truncated or damaged",
                where=str(path),
                hint="Download or make it again, and compare its checksum.",
            ) from error

    def get(self, key: str, default: Any = None) -> Any:
        """A metadata value (list, str, int, float, bool), or `default` where it is absent."""
        return self.metadata.get(key, default)

    def require(self, key: str) -> Any:
        value = self.get(key)
        if value is None:
            raise UsageError(f"this GGUF has no '{key}'", where=str(self.path))
        return value

    @property
    def architecture(self) -> str:
        return str(self.require("general.architecture"))

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape in row-major order, as Hugging Face writes it: [rows, columns]."""
        return self.tensors[name].shape

    def type_name(self, name: str) -> str:
        return self.tensors[name].type_name

    def dequantized(self, name: str) -> npt.NDArray[np.float32]:
        """The tensor as float32 in row-major `shape(name)`."""
        from gguf import GGMLQuantizationType
        from gguf.quants import dequantize

        tensor = self.tensors[name]
        try:
            values = dequantize(tensor.data, GGMLQuantizationType(tensor.type))
        except NotImplementedError as error:
            raise UsageError(
                f"tensor '{name}' has type {tensor.type_name}, "
                "which the gguf package can't dequantize",
                where=str(self.path),
            ) from error
        return np.ascontiguousarray(values, dtype=np.float32).reshape(tensor.shape)


class _Reader:
    """Walks over the header once; ValueError or struct.error where it runs out of file."""

    def __init__(self, file: npt.NDArray[np.uint8]) -> None:
        self._file = file
        self._bytes = file.data
        _, version, self._n_tensors, self._n_values = self._unpack("IIQQ", 0)
        if version not in VERSIONS:
            raise ValueError(f"version {version}")
        self._at = struct.calcsize("<IIQQ")
        self._values: dict[str, Any] = {}
        self.value_types: dict[str, int] = {}

    def metadata(self) -> dict[str, Any]:
        for _ in range(self._n_values):
            key = self._string()
            kind = self.value_types[key] = self._next("I")
            self._values[key] = self._value(kind)
        return self._values

    def tensors(self) -> dict[str, GGUFTensor]:
        places = []
        for _ in range(self._n_tensors):
            name = self._string()
            shape = tuple(self._next("Q") for _ in range(self._next("I")))[::-1]
            places.append((name, shape, self._next("I"), self._next("Q")))
        alignment = int(self._values.get("general.alignment", ALIGNMENT))
        start = -(-self._at // alignment) * alignment
        return {name: self._tensor(shape, kind, start + at) for name, shape, kind, at in places}

    def _tensor(self, shape: tuple[int, ...], kind: int, offset: int) -> GGUFTensor:
        from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

        block, block_bytes = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
        row_bytes = shape[-1] // block * block_bytes
        rows = 1
        for n in shape[:-1]:
            rows *= n
        if offset + rows * row_bytes > len(self._file):
            raise ValueError("a tensor lies outside the file")
        data = self._file[offset : offset + rows * row_bytes]
        return GGUFTensor(kind, shape, np.asarray(data).reshape(*shape[:-1], row_bytes))

    def _unpack(self, form: str, at: int) -> tuple[Any, ...]:
        return struct.unpack_from("<" + form, self._bytes, at)

    def _next(self, form: str) -> Any:
        value = self._unpack(form, self._at)[0]
        self._at += struct.calcsize("<" + form)
        return value

    def _string(self) -> str:
        length = self._next("Q")
        end = self._at + length
        if end > len(self._bytes):
            raise ValueError("a string runs out of the file")
        text = bytes(self._bytes[self._at : end]).decode("utf-8")
        self._at = end
        return text

    def _value(self, kind: int) -> Any:
        if kind == STRING:
            return self._string()
        if kind != ARRAY:
            return self._next(SCALARS[kind])
        inner, count = self._next("I"), self._next("Q")
        if inner in (STRING, ARRAY):
            if count > len(self._bytes):
                raise ValueError("an array runs out of the file")
            return [self._value(inner) for _ in range(count)]
        form = f"{count}{SCALARS[inner]}"
        values = list(self._unpack(form, self._at))
        self._at += struct.calcsize("<" + form)
        return values


class ArchitectureMetadata:
    """A GGUF's metadata under its architecture's prefix: view["block_count"]."""

    def __init__(self, gguf: GGUFFile) -> None:
        self._gguf = gguf
        self._prefix = gguf.architecture

    def __getitem__(self, key: str) -> Any:
        return self._gguf.require(f"{self._prefix}.{key}")

    def get(self, key: str, default: Any) -> Any:
        return self._gguf.get(f"{self._prefix}.{key}", default)
