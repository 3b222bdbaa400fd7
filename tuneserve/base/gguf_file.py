"""Reading a GGUF's metadata and tensors, with one clear error where it is damaged.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tuneserve.errors import UsageError
from tuneserve.llama import check_is_gguf


class GGUFFile:
    """An open GGUF: metadata as Python values, tensors dequantized one at a time."""

    def __init__(self, path: Path) -> None:
        """Map the file. Raises UsageError if it is missing, no GGUF, or cut short."""
        from gguf import GGUFReader

        check_is_gguf(path)
        self.path = path
        try:
            self._reader = GGUFReader(path)
        except (ValueError, IndexError, KeyError, TypeError, OverflowError, MemoryError) as error:
            raise UsageError(
                "this GGUF is truncated or damaged",
                where=str(path),
                hint="Download or make it again, and compare its checksum.",
            ) from error
        self.tensors = {tensor.name: tensor for tensor in self._reader.tensors}

    def get(self, key: str, default: Any = None) -> Any:
        """A metadata value (list, str, int, float, bool), or `default` where it is absent."""
        field = self._reader.get_field(key)
        return default if field is None else field.contents()

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
        return tuple(int(n) for n in reversed(self.tensors[name].shape))

    def type_name(self, name: str) -> str:
        """'F32', 'Q4_1', …"""
        return str(self.tensors[name].tensor_type.name)

    def dequantized(self, name: str) -> npt.NDArray[np.float32]:
        """The tensor as float32 in row-major `shape(name)`."""
        from gguf.quants import dequantize

        tensor = self.tensors[name]
        try:
            values = dequantize(tensor.data, tensor.tensor_type)
        except NotImplementedError as error:
            raise UsageError(
                f"tensor '{name}' has type {tensor.tensor_type.name}, "
                "which the gguf package can't dequantize",
                where=str(self.path),
            ) from error
        return np.ascontiguousarray(values, dtype=np.float32).reshape(self.shape(name))


class ArchitectureMetadata:
    """A GGUF's metadata under its architecture's prefix: view["block_count"]."""

    def __init__(self, gguf: GGUFFile) -> None:
        self._gguf = gguf
        self._prefix = gguf.architecture

    def __getitem__(self, key: str) -> Any:
        return self._gguf.require(f"{self._prefix}.{key}")

    def get(self, key: str, default: Any) -> Any:
        return self._gguf.get(f"{self._prefix}.{key}", default)
