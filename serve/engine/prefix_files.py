"""A prefix as a file: token ids and what llama.cpp saved of their keys and values, with a checksum.

Little-endian: MAGIC, number of tokens (u32), format (u32), bytes of data (u64), SHA-256 of all that
follows; then the token ids (i32) and the data. llama.cpp checks little of what it restores, so
nothing of a file whose checksum is wrong may reach it.
"""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path

import numpy as np

from tuneserve.arrays import Bytes
from tuneserve.errors import TuneserveError
from tuneserve.files import atomic_path
from tuneserve.serve.engine.prefixes import Tokens

FORMAT = 1

_MAGIC = b"tuneprfx"
_HEADER = struct.Struct("<8sIIQ32s")


class DamagedPrefixError(TuneserveError):
    """A file is not what was written."""


def file_bytes(tokens: Tokens, data: Bytes) -> int:
    """The size of the file."""
    return _HEADER.size + tokens.nbytes + data.nbytes


def write_prefix(path: Path, tokens: Tokens, data: Bytes) -> None:
    """Write a file that is whole or absent, for this user alone. Raises OSError."""
    checksum = hashlib.sha256(tokens.data)
    checksum.update(data.data)
    header = _HEADER.pack(_MAGIC, len(tokens), FORMAT, data.nbytes, checksum.digest())
    with atomic_path(path) as temporary:
        temporary.touch(0o600)
        with temporary.open("wb") as file:
            file.write(header)
            file.write(tokens.data)
            file.write(data.data)


def read_tokens(path: Path) -> Tokens:
    """The token ids, not checked but for the file's size. Raises DamagedPrefixError, OSError."""
    with path.open("rb") as file:
        count, _, _ = _read_header(path, file.read(_HEADER.size))
        return np.frombuffer(file.read(count * 4), np.int32)


def read_prefix(path: Path) -> tuple[Tokens, Bytes]:
    """Token ids and data, checked. Raises DamagedPrefixError, OSError."""
    with path.open("rb") as file:
        count, size, expected = _read_header(path, file.read(_HEADER.size))
        rest = np.fromfile(file, np.uint8, count * 4 + size)
    if hashlib.sha256(rest.data).digest() != expected:
        raise DamagedPrefixError("its checksum is wrong", where=str(path))
    return rest[: count * 4].view(np.int32), rest[count * 4 :]


def _read_header(path: Path, header: bytes) -> tuple[int, int, bytes]:
    """(number of tokens, bytes of data, checksum)."""
    if len(header) == _HEADER.size:
        magic, count, version, size, checksum = _HEADER.unpack(header)
        whole = _HEADER.size + count * 4 + size
        if (magic, version) == (_MAGIC, FORMAT) and whole == path.stat().st_size:
            return count, size, checksum
    raise DamagedPrefixError("it is not a whole prefix", where=str(path))
