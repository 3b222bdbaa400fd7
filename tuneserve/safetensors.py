"""safetensors files by pieces, so that no model has to fit in memory: read by rows, written tensor
by tensor.

The safetensors library maps whole files, whose pages then count as this process's memory, its NumPy
side has no bfloat16, and it saves only what is all in memory. Here only the rows in hand are held.
Format: 8 bytes little-endian header length, a JSON header, then the tensors' bytes in order
(https://huggingface.co/docs/safetensors).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt

from tuneserve.arrays import Floats
from tuneserve.errors import UsageError
from tuneserve.files import read_json

HEADER_LIMIT = 256 * 1024 * 1024
STORAGE = {"F32": "<f4", "F16": "<f2", "BF16": "<u2", "U8": "u1", "F64": "<f8"}


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor lies: file, byte offset, element type, row-major shape."""

    path: Path
    offset: int
    dtype: str
    shape: tuple[int, ...]

    @property
    def row_items(self) -> int:
        return prod(self.shape[1:])

    def raw(self, start: int = 0, stop: int | None = None) -> npt.NDArray[np.generic]:
        """Rows [start, stop) as stored (bfloat16 as uint16). Safe to call from several threads."""
        rows = self.shape[0] if self.shape else 1
        stop = rows if stop is None else stop
        item = np.dtype(STORAGE[self.dtype])
        values = np.empty((stop - start) * self.row_items, dtype=item)
        position = self.offset + start * self.row_items * item.itemsize
        with self.path.open("rb", buffering=0) as file:
            file.seek(position)
            left = values.view(np.uint8).data
            while left:
                count = file.readinto(left)
                if not count:
                    raise UsageError("this safetensors file is truncated", where=str(self.path))
                left = left[count:]
        return values.reshape(stop - start, *self.shape[1:]) if self.shape else values.reshape(())

    def rows(self, start: int = 0, stop: int | None = None) -> Floats:
        """Rows [start, stop) as float32."""
        return as_float32(self.raw(start, stop), self.dtype)


def as_float32(values: npt.NDArray[np.generic], dtype: str) -> Floats:
    if dtype == "BF16":
        # With the type given, the shift is one vectorized pass.
        shifted: Floats = np.left_shift(values, 16, dtype=np.uint32).view(np.float32)
        return shifted
    if dtype == "U8":
        raise UsageError("a tensor of packed bytes (quantized) where float values are needed")
    return values.astype(np.float32, copy=False)


SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"


def weight_files(directory: Path) -> list[Path]:
    """The files that transformers would read a checkpoint's weights from: model.safetensors, or
    else the shards that the index names, whatever else lies beside them (an older export's index
    and shards, `consolidated.safetensors`, an adapter). [] if there are neither.

    Raises UsageError for a damaged index and for shards that are missing or outside the directory.
    """
    if (directory / SINGLE).is_file():
        return [directory / SINGLE]
    index = directory / INDEX
    if not index.is_file():
        return []
    content = read_json(index)
    if not isinstance(content.get("metadata"), dict):
        raise UsageError(
            "has no metadata, without which transformers reads no index", where=str(index),
            hint='Add "metadata": {} to it.',
        )  # fmt: skip
    weight_map = content.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise UsageError("has no weight_map", where=str(index))
    names = sorted(set(map(str, weight_map.values())))
    if outside := [name for name in names if Path(name).name != name]:
        raise UsageError("names files of other folders", where=str(index), problems=outside)
    missing = [name for name in names if not (directory / name).is_file()]
    if missing:
        raise UsageError("shards are missing", where=str(directory), problems=missing)
    return [directory / name for name in names]


def checkpoint_tensors(directory: Path) -> dict[str, StoredTensor]:
    """A checkpoint directory's weights by name, in shards or not. Raises UsageError for files that
    are missing or damaged."""
    paths = weight_files(directory)
    if not paths:
        raise UsageError(f"neither {SINGLE} nor {INDEX} is here", where=str(directory))
    return {name: tensor for path in paths for name, tensor in stored_tensors(path).items()}


def stored_tensors(path: Path) -> dict[str, StoredTensor]:
    """The tensors of one file, by name. Raises UsageError if it is damaged."""
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= min(HEADER_LIMIT, size - 8):
                raise ValueError("header length")
            header = json.loads(file.read(length))
        start = 8 + length
        tensors = {}
        for name, entry in header.items():
            if name == "__metadata__":
                continue
            first, last = entry["data_offsets"]
            if not 0 <= first <= last <= size - start:
                raise ValueError(f"'{name}' lies outside the file")
            shape = tuple(int(n) for n in entry["shape"])
            tensors[name] = StoredTensor(path, start + first, entry["dtype"], shape)
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"this safetensors file is truncated or damaged ({error})", where=str(path)
        ) from error
    return tensors


@dataclass(frozen=True)
class TensorSpec:
    """Name, element type ('F32', 'F16', 'BF16') and row-major shape of a tensor to come."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def size_bytes(self) -> int:
        return prod(self.shape) * np.dtype(STORAGE[self.dtype]).itemsize


class SafetensorsWriter:
    """Give all specs first, then the tensors' bytes in the same order."""

    def __init__(self, path: Path, specs: Sequence[TensorSpec]) -> None:
        self._waiting = list(reversed(specs))
        header: dict[str, object] = {"__metadata__": {"format": "pt"}}
        offset = 0
        for spec in specs:
            end = offset + spec.size_bytes
            header[spec.name] = {
                "dtype": spec.dtype, "shape": list(spec.shape), "data_offsets": [offset, end]
            }  # fmt: skip
            offset = end
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        self._file = path.open("wb")
        self._file.write(len(text).to_bytes(8, "little") + text)

    def write(self, name: str, pieces: Iterable[bytes]) -> None:
        """The next tensor's bytes, in pieces one after the other."""
        spec = self._waiting.pop()
        if spec.name != name:
            raise ValueError(f"expected {spec.name}, got {name}")
        size = 0
        for data in pieces:
            size += self._file.write(data)
        if spec.size_bytes != size:
            raise ValueError(f"expected {spec.size_bytes} B of {name}, got {size} B")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()
        if kind is None and self._waiting:
            raise ValueError(f"{len(self._waiting)} tensors were never written")
