"""safetensors files by pieces, so that no model has to fit in memory: read by rows, written tensor
by tensor.

The safetensors library maps whole files, whose pages then count as this process's memory, its NumPy
side has no bfloat16, and it saves only what is all in memory. Here only the rows in hand are held.
Format: 8 bytes little-endian header length, a JSON header, then the tensors' bytes in order
(https://huggingface.co/docs/safetensors).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from tuneserve.arrays import Floats
from tuneserve.errors import UsageError
from tuneserve.model_files import json_object, read_model_json

HEADER_LIMIT = 100_000_000
"""The library's own."""
DEEPEST_HEADER = 3
MOST_AXES = 64
BITS = {
    "BOOL": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8,
    "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16,
    "I32": 32, "U32": 32, "F32": 32, "C64": 64, "F64": 64, "I64": 64, "U64": 64,
}  # fmt: skip
"""Of an element, by the type's name."""
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

    @property
    def size_bytes(self) -> int:
        """Bytes that it takes in the file."""
        return prod(self.shape) * BITS[self.dtype] // 8

    def raw(self, start: int = 0, stop: int | None = None) -> npt.NDArray[np.generic]:
        """Rows [start, stop) as stored (bfloat16 as uint16). Safe to call from several threads."""
        rows = self.shape[0] if self.shape else 1
        stop = rows if stop is None else stop
        if self.dtype not in STORAGE:
            raise UsageError(f"a tensor of {self.dtype}, which is not read", where=str(self.path))
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
        return [_inside(directory, SINGLE)]
    if not (directory / INDEX).is_file():
        for name in (SINGLE, INDEX):
            if (directory / name).exists():
                raise UsageError("is no file", where=str(directory / name))
        return []
    names = sorted(set(_weight_map(directory / INDEX).values()))
    missing = [name for name in names if not (directory / name).is_file()]
    if missing:
        raise UsageError("shards are missing", where=str(directory), problems=missing)
    return [_inside(directory, name) for name in names]


def _weight_map(index: Path) -> dict[str, str]:
    """The file of each weight, by an index. Raises UsageError for a damaged one, and for names of
    files that are none in its folder."""
    content = read_model_json(index, most_bytes=HEADER_LIMIT)
    if not isinstance(content.get("metadata"), dict):
        raise UsageError(
            "has no metadata, without which transformers reads no index", where=str(index),
            hint='Add "metadata": {} to it.',
        )  # fmt: skip
    weight_map = content.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise UsageError("has no weight_map", where=str(index))
    if not all(isinstance(name, str) and name for name in weight_map.values()):
        raise UsageError("its weight_map names no files", where=str(index))
    names = sorted(set(weight_map.values()))
    if outside := [name for name in names if not _is_file_name(name)]:
        raise UsageError(
            "names files of other folders", where=str(index), problems=list(map(ascii, outside))
        )
    return weight_map


def _is_file_name(name: str) -> bool:
    return Path(name).name == name and len(name) <= 255 and "\0" not in name and name.isprintable()


def _inside(directory: Path, name: str) -> Path:
    """A file of a checkpoint. Raises UsageError for a link that leads out of its folder; into the
    hub's cache, whose snapshots are links, it may."""
    path, home = directory / name, directory.resolve()
    homes = [home, home.parents[1] / "blobs"] if home.parent.name == "snapshots" else [home]
    if not any(path.resolve().is_relative_to(one) for one in homes):
        raise UsageError(
            "is a link to a file of another folder", where=str(path),
            hint="Copy the file here, or name the folder that it is in.",
        )  # fmt: skip
    return path


def checkpoint_tensors(directory: Path) -> dict[str, StoredTensor]:
    """A checkpoint directory's weights by name, in shards or not. Raises UsageError for files that
    are missing or damaged, a weight that is in two of them, and an index of other weights."""
    paths = weight_files(directory)
    if not paths:
        raise UsageError(f"neither {SINGLE} nor {INDEX} is here", where=str(directory))
    found: dict[str, StoredTensor] = {}
    for path in paths:
        tensors = stored_tensors(path)
        if twice := sorted(found.keys() & tensors.keys()):
            raise UsageError(
                "weights that another shard has, too",
                where=str(path),
                problems=list(map(ascii, twice)),
            )
        found |= tensors
    if paths != [directory / SINGLE] and not found.keys() & _weight_map(directory / INDEX).keys():
        raise UsageError(
            "names none of the weights that are in its files", where=str(directory / INDEX),
            hint="Download it again; an index names the files that belong together.",
        )  # fmt: skip
    return found


def stored_tensors(path: Path) -> dict[str, StoredTensor]:
    """The tensors of one file, by name.

    Raises UsageError for what the safetensors library refuses: a header that is longer than the
    file or HEADER_LIMIT, no JSON object, or has a name twice; types that it does not know; shapes
    that need another number of bytes than there are; bytes of no tensor, or of two.
    """
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= min(HEADER_LIMIT, size - 8):
                raise ValueError("the header's length")
            data = file.read(length)
    except OSError as error:
        raise UsageError(f"can't be read: {error.strerror}", where=str(path)) from error
    except ValueError as error:
        raise _damaged(path, error) from None
    if data[:1] != b"{":
        raise _damaged(path, "the header is no JSON object")
    try:
        header = json_object(data, str(path), deepest=DEEPEST_HEADER)
        notes = header.pop("__metadata__", {})
        if not isinstance(notes, dict) or not all(isinstance(one, str) for one in notes.values()):
            raise ValueError("the notes in the header are no texts")
        start, end = 8 + length, 0
        tensors: dict[str, StoredTensor] = {}
        for name, entry in sorted(header.items(), key=_first_byte):
            tensor = _stored(name, entry, path, start)
            if tensor.offset != start + end:
                raise ValueError(f"{ascii(name)[:100]} does not begin where the one before it ends")
            end += tensor.size_bytes
            tensors[name] = tensor
        if start + end != size:
            raise ValueError(f"the tensors take {end} B and the file has {size - start} B for them")
    except ValueError as error:
        raise _damaged(path, error) from None
    # In the order of the header.
    return {name: tensors[name] for name in header}


def _damaged(path: Path, why: object) -> UsageError:
    return UsageError(
        f"this safetensors file is truncated or damaged ({why})", where=str(path),
        hint="Download it again.",
    )  # fmt: skip


def _first_byte(item: tuple[str, Any]) -> tuple[int, int]:
    """Where an entry's bytes begin and end. Raises ValueError for another kind of entry."""
    name, entry = item
    offsets = entry.get("data_offsets") if isinstance(entry, dict) else None
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(map(_is_count, offsets)):
        raise ValueError(f"{ascii(name)[:100]} has no place in the file")
    return offsets[0], offsets[1]


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < 1 << 63


def _stored(name: str, entry: Mapping[str, Any], path: Path, start: int) -> StoredTensor:
    """Raises ValueError for an entry that contradicts itself."""
    dtype, shape = entry.get("dtype"), entry.get("shape")
    if not isinstance(dtype, str) or dtype not in BITS:
        raise ValueError(f"{ascii(name)[:100]} is of a type that is not known")
    if not isinstance(shape, list) or len(shape) > MOST_AXES or not all(map(_is_count, shape)):
        raise ValueError(f"{ascii(name)[:100]} has no shape")
    first, last = entry["data_offsets"]
    if prod(shape) * BITS[dtype] != 8 * (last - first):
        raise ValueError(f"{ascii(name)[:100]} has a shape of another size than its bytes")
    return StoredTensor(path, start + first, dtype, tuple(shape))


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
