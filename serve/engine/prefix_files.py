"""A prefix as a file: token ids and what llama.cpp saved of their keys and values, with a checksum.

Little-endian: MAGIC, number of tokens (u32), format (u32), bytes of data (u64), SHA-256 of all that
follows; then of an activated adapter the token it acts from (u32) and its key (32 bytes), of any
other 36 zeros; then the token ids (i32) and the data. llama.cpp checks little of what it restores,
so nothing of a file whose checksum is wrong may reach it.
"""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path

import numpy as np

from tuneserve.arrays import Bytes
from tuneserve.errors import TuneserveError
from tuneserve.files import atomic_path
from tuneserve.serve.engine.activation import Activated, Adapter
from tuneserve.serve.engine.prefixes import CachedPrefix, Tokens

FORMAT = 2

_MAGIC = b"tuneprfx"
_HEADER = struct.Struct("<8sIIQ32s")
_ACTIVATED = struct.Struct("<I32s")


class DamagedPrefixError(TuneserveError):
    """A file is not what was written."""


def file_bytes(tokens: Tokens, data: Bytes) -> int:
    """The size of the file."""
    return _HEADER.size + _ACTIVATED.size + tokens.nbytes + data.nbytes


def write_prefix(path: Path, prefix: CachedPrefix) -> None:
    """Write a file that is whole or absent, for this user alone. Raises OSError."""
    tokens, data, adapter = prefix.tokens, prefix.data, prefix.adapter
    activated = _ACTIVATED.pack(0, b"")
    if isinstance(adapter, Activated):
        activated = _ACTIVATED.pack(adapter.start, bytes.fromhex(adapter.key))
    checksum = hashlib.sha256(activated)
    checksum.update(tokens.data)
    checksum.update(data.data)
    header = _HEADER.pack(_MAGIC, len(tokens), FORMAT, data.nbytes, checksum.digest())
    with atomic_path(path, synced=False) as temporary:
        temporary.touch(0o600)
        with temporary.open("wb") as file:
            file.write(header)
            file.write(activated)
            file.write(tokens.data)
            file.write(data.data)


def read_tokens(path: Path, adapter: str | None) -> CachedPrefix:
    """A prefix without its data, not checked but for the file's size. `adapter` is what its folder
    is for. Raises DamagedPrefixError, OSError."""
    with path.open("rb") as file:
        count, _, _ = _read_header(path, file.read(_HEADER.size))
        activated = file.read(_ACTIVATED.size)
        tokens = np.frombuffer(file.read(count * 4), np.int32)
    return CachedPrefix(_adapter(activated, adapter), tokens)


def read_prefix(path: Path, adapter: str | None) -> CachedPrefix:
    """A prefix, checked. Raises DamagedPrefixError, OSError."""
    with path.open("rb") as file:
        count, size, expected = _read_header(path, file.read(_HEADER.size))
        rest = np.fromfile(file, np.uint8, _ACTIVATED.size + count * 4 + size)
    if hashlib.sha256(rest.data).digest() != expected:
        raise DamagedPrefixError("its checksum is wrong", where=str(path))
    begin, end = _ACTIVATED.size, _ACTIVATED.size + count * 4
    activated = rest[:begin].tobytes()
    return CachedPrefix(_adapter(activated, adapter), rest[begin:end].view(np.int32), rest[end:])


def _adapter(activated: bytes, adapter: str | None) -> Adapter:
    start, key = _ACTIVATED.unpack(activated)
    return Activated(key.hex(), start) if start else adapter


def _read_header(path: Path, header: bytes) -> tuple[int, int, bytes]:
    """(number of tokens, bytes of data, checksum)."""
    if len(header) == _HEADER.size:
        magic, count, version, size, checksum = _HEADER.unpack(header)
        whole = _HEADER.size + _ACTIVATED.size + count * 4 + size
        if (magic, version) == (_MAGIC, FORMAT) and whole == path.stat().st_size:
            return count, size, checksum
    raise DamagedPrefixError("it is not a whole prefix", where=str(path))
