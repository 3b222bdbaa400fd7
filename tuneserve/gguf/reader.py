"""Reading a GGUF's metadata and tensors, with one clear error where it is damaged.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, with what ggml itself demands:
no name twice, no array in an array, tensors one behind the other. The gguf package's reader makes
several NumPy objects of every string: for a vocabulary of 150,000 tokens it takes forty times as
long.
"""

from __future__ import annotations

import codecs
import re
import struct
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from tuneserve.arrays import Bytes, Floats
from tuneserve.errors import UsageError

MAGIC = b"GGUF"
LONG_TEXT = 1 << 16
VERSIONS = (2, 3)
ALIGNMENT = 32
MOST_DIMENSIONS = 4  # GGML_MAX_DIMS
LONGEST_NAME = 64  # GGML_MAX_NAME, with the zero at its end
UINT32, STRING, ARRAY = 4, 8, 9
# GGUF value type number → struct format.
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q",
           12: "d"}  # fmt: skip

HEADER_BYTES = 128 << 20
"""Longest header that is read; one of a vocabulary of 256,000 tokens takes about 15 MiB. It bounds
what a damaged file can make this process allocate: a Python object takes up to 8 times the bytes
of a value."""


MOST_OBJECTS = 1 << 20
"""A longer list of numbers stays an array of the file's bytes. No vocabulary has more tokens."""

_RUNS_OUT = f"its header runs out of the file, or past {HEADER_BYTES >> 20} MiB"


class _DamageError(Exception):
    """What is wrong with the file's bytes."""


@dataclass(frozen=True, eq=False)
class GGUFTensor:
    """A tensor: its ggml type number, its row-major shape ([rows, columns]), and where its bytes
    lie in the file."""

    type: int
    shape: tuple[int, ...]
    offset: int
    size: int
    file: Bytes = field(repr=False)

    @property
    def type_name(self) -> str:
        """'F32', 'Q4_1', …"""
        from gguf import GGMLQuantizationType

        return str(GGMLQuantizationType(self.type).name)

    @property
    def n_elements(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def data(self) -> Bytes:
        """Its bytes [..., bytes of a row], mapped."""
        data = np.asarray(self.file[self.offset : self.offset + self.size])
        return data.reshape(*self.shape[:-1], -1)


class GGUFFile:
    """An open GGUF: `metadata` as Python values, their `value_types` as the format numbers them,
    `tensors` by name in the file's order. Only the header is read, the rest is mapped. The metadata
    end at the byte `metadata_end`, the header at `header_end`, and tensors begin at multiples of
    `alignment` bytes."""

    def __init__(self, path: Path) -> None:
        """Raises UsageError if the file is missing, no GGUF, or damaged."""
        check_is_gguf(path)
        self.path = path
        try:
            reader = _HeaderReader(np.memmap(path, mode="r"))
            self.metadata, self.value_types = reader.read_metadata()
            self.metadata_end = reader.at
            self.alignment = _alignment(self.metadata, self.value_types)
            self.tensors = reader.read_tensors(self.alignment)
            self.header_end = reader.at
        except _DamageError as error:
            raise UsageError(
                f"this GGUF is truncated or damaged: {error}",
                where=str(path),
                hint=_hint_of_damage(path),
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

    def tensor(self, name: str) -> GGUFTensor:
        """Raises UsageError if there is none of this name."""
        try:
            return self.tensors[name]
        except KeyError:
            raise UsageError(f"this GGUF has no tensor '{name}'", where=str(self.path)) from None

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape in row-major order, as Hugging Face writes it: [rows, columns]."""
        return self.tensor(name).shape

    def type_name(self, name: str) -> str:
        return self.tensor(name).type_name

    def dequantized(self, name: str) -> Floats:
        """The tensor as float32 in row-major `shape(name)`."""
        from gguf import GGMLQuantizationType
        from gguf.quants import dequantize

        tensor = self.tensor(name)
        try:
            values = dequantize(tensor.data, GGMLQuantizationType(tensor.type))
        except NotImplementedError as error:
            raise UsageError(
                f"tensor '{name}' has type {tensor.type_name}, "
                "which the gguf package can't dequantize",
                where=str(self.path),
            ) from error
        return np.ascontiguousarray(values, dtype=np.float32).reshape(tensor.shape)


class _HeaderReader:
    """Walks over the header once. Raises _DamageError where it contradicts the format."""

    def __init__(self, file: Bytes) -> None:
        self._file = file
        self._bytes = file[:HEADER_BYTES].data
        self._at = len(MAGIC)
        version = self._next("I")
        if version not in VERSIONS:
            raise _DamageError(f"it says it has version {version} of the format")
        self._n_tensors, self._n_values = self._next("Q"), self._next("Q")

    @property
    def at(self) -> int:
        """The byte that is read next."""
        return self._at

    def read_metadata(self) -> tuple[dict[str, Any], dict[str, int]]:
        """Values and their type numbers by key."""
        values: dict[str, Any] = {}
        types: dict[str, int] = {}
        for _ in range(self._n_values):
            key = self._string()
            if key in values:
                raise _DamageError(f"the key {shown(key)} stands there twice")
            types[key] = self._next("I")
            values[key] = self._value(types[key])
        return values, types

    def read_tensors(self, alignment: int) -> dict[str, GGUFTensor]:
        """Behind the metadata; each tensor's bytes begin at a multiple of `alignment`."""
        entries: dict[str, tuple[tuple[int, ...], int, int]] = {}
        for _ in range(self._n_tensors):
            name = self._string()
            if name in entries:
                raise _DamageError(f"the tensor {shown(name)} stands there twice")
            if len(name.encode()) >= LONGEST_NAME:
                raise _DamageError(f"the name of the tensor {shown(name)} is too long")
            entries[name] = (self._shape(name), self._next("I"), self._next("Q"))
        start = _aligned(self._at, alignment)
        tensors, end = {}, 0
        for name, (shape, kind, offset) in entries.items():
            if offset != end:
                raise _DamageError(f"the tensor {name!r} lies at {offset} instead of {end}")
            tensors[name] = tensor = self._tensor(name, shape, kind, start + offset)
            end = _aligned(offset + tensor.size, alignment)
        return tensors

    def _shape(self, name: str) -> tuple[int, ...]:
        count = self._next("I")
        if not 1 <= count <= MOST_DIMENSIONS:
            raise _DamageError(f"the tensor {name!r} has {count} dimensions")
        shape = self._unpack(f"{count}Q", 8 * count)[::-1]
        if 0 in shape:
            raise _DamageError(f"the tensor {name!r} is empty")
        return shape

    def _tensor(self, name: str, shape: tuple[int, ...], kind: int, offset: int) -> GGUFTensor:
        if kind not in _block_sizes():
            raise _DamageError(f"the tensor {name!r} has the unknown type {kind}")
        block, block_bytes = _block_sizes()[kind]
        blocks, rest = divmod(shape[-1], block)
        if rest:
            raise _DamageError(f"the rows of tensor {name!r} are no whole blocks of {block}")
        size = blocks * block_bytes
        for n in shape[:-1]:
            size *= n
        if offset + size > len(self._file):
            raise _DamageError(f"the tensor {name!r} lies outside the file")
        return GGUFTensor(kind, shape, offset, size, self._file)

    def _unpack(self, form: str, size: int) -> tuple[Any, ...]:
        end = self._at + size
        if end > len(self._bytes):
            raise _DamageError(_RUNS_OUT)
        values = struct.unpack_from("<" + form, self._bytes, self._at)
        self._at = end
        return values

    def _next(self, form: str) -> Any:
        return self._unpack(form, struct.calcsize("<" + form))[0]

    def _string(self) -> str:
        return self._strings(1)[0]

    def _strings(self, count: int) -> list[str]:
        data, at, size = self._bytes, self._at, len(self._bytes)
        read_length = struct.Struct("<Q").unpack_from
        texts = []
        try:
            for _ in range(count):
                start = at + 8
                at = start + read_length(data, at)[0]
                if at > size:
                    raise _DamageError(_RUNS_OUT)
                if at - start > LONG_TEXT:
                    _check_utf8(data[start:at])
                texts.append(str(data[start:at], "utf-8"))
        except struct.error as error:
            raise _DamageError(_RUNS_OUT) from error
        except UnicodeDecodeError as error:
            raise _DamageError("a text is not UTF-8") from error
        self._at = at
        return texts

    def _value(self, kind: int) -> Any:
        if kind == STRING:
            return self._string()
        if kind in SCALARS:
            return self._next(SCALARS[kind])
        if kind != ARRAY:
            raise _DamageError(f"a value has the unknown type {kind}")
        inner, count = self._next("I"), self._next("Q")
        if inner == STRING:
            return self._strings(count)
        if inner not in SCALARS:
            raise _DamageError(f"an array has values of type {inner}")
        form = SCALARS[inner]
        size = count * struct.calcsize("<" + form)
        # Before a format is made of the count: a huge one is no valid format.
        if size > len(self._bytes) - self._at:
            raise _DamageError(_RUNS_OUT)
        values = np.frombuffer(self._bytes, f"<{form}", count, self._at)
        self._at += size
        # As objects they take up to ten times their bytes.
        return values if count > MOST_OBJECTS else values.tolist()


def _check_utf8(data: memoryview) -> None:
    """Raise UnicodeDecodeError. Of a whole text that is none, the error takes twice its bytes, and
    the length of one may be wrong by the size of the file."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    for start in range(0, len(data), LONG_TEXT):
        decoder.decode(data[start : start + LONG_TEXT], final=start + LONG_TEXT >= len(data))


# What people call the pieces of a file that was cut by size: x.gguf.part00, x.gguf-split-a
_PIECE = re.compile(r"(.+\.gguf)[.-](part|split|chunk)?[-_.]?(\d+|[a-z]{1,2})", re.IGNORECASE)


def _hint_of_damage(path: Path) -> str:
    if match := _PIECE.fullmatch(path.name):
        whole = match[1]
        return f"It looks like a piece of a file. Join all of them: cat {whole}?* > {whole}"
    return "Download or make it again, and compare its checksum."


@cache
def _block_sizes() -> dict[int, tuple[int, int]]:
    """Values and bytes of a block, by ggml type number."""
    from gguf import GGML_QUANT_SIZES

    return {int(kind): sizes for kind, sizes in GGML_QUANT_SIZES.items()}


def _alignment(metadata: dict[str, Any], types: dict[str, int]) -> int:
    key = "general.alignment"
    if key not in metadata:
        return ALIGNMENT
    value = metadata[key]
    if types[key] != UINT32 or value < 1 or value & (value - 1):
        raise _DamageError(f"an alignment of {shown(value)} is no power of two")
    return int(value)


def _aligned(offset: int, alignment: int) -> int:
    return -(-offset // alignment) * alignment


def shown(value: Any) -> str:
    """A value of the metadata in a message: its beginning, however long it is."""
    if isinstance(value, list | np.ndarray):
        return f"a list of {len(value)}"
    return repr(value[:60] if isinstance(value, str) else value)


class ArchitectureMetadata:
    """A GGUF's metadata under its architecture's prefix: view["block_count"].

    It remembers what was asked for, so that what nobody took over can be told.
    """

    def __init__(self, gguf: GGUFFile) -> None:
        self._gguf = gguf
        self._prefix = gguf.architecture
        self._asked: set[str] = set()

    def __getitem__(self, key: str) -> Any:
        self._asked.add(key)
        return self._gguf.require(f"{self._prefix}.{key}")

    def get(self, key: str, default: Any) -> Any:
        self._asked.add(key)
        return self._gguf.get(f"{self._prefix}.{key}", default)

    def unasked(self) -> dict[str, Any]:
        """The entries that were never asked for, by key."""
        prefix = f"{self._prefix}."
        entries = {
            key.removeprefix(prefix): value
            for key, value in self._gguf.metadata.items()
            if key.startswith(prefix)
        }
        return {key: value for key, value in entries.items() if key not in self._asked}


def check_is_gguf(path: Path) -> None:
    """Raise UsageError if `path` is missing or no GGUF, before llama.cpp is asked."""
    try:
        with path.open("rb") as file:
            magic = file.read(len(MAGIC))
    except FileNotFoundError:
        raise UsageError("no such file", where=str(path)) from None
    except OSError as error:
        raise UsageError(f"can't be read: {error.strerror}", where=str(path)) from error
    if magic != MAGIC:
        raise UsageError("not a GGUF file", where=str(path))
