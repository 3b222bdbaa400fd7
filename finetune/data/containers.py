"""The bytes of a data file, out of gzip, Zstandard, bzip2 or xz where they are packed.

What packs a file is told by its first bytes, so one whose ending says otherwise is read as well.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, cast

from tuneserve.errors import UsageError
from tuneserve.files import check_regular

PACKED_ENDINGS = (".gz", ".zst", ".bz2", ".xz")
# Text is packed to a tenth or so. What grows by more than this and past this size is a trap.
_LARGEST_GROWTH = 300
_SMALLEST_TRAP = 2**30
_LFS_POINTER = b"version https://git-lfs"


def kind_of(path: Path) -> str:
    """The ending that says what is in a file, in lower case: '.jsonl' of 'd.jsonl.gz'."""
    suffix = path.suffix.lower()
    return Path(path.stem).suffix.lower() if suffix in PACKED_ENDINGS else suffix


def open_data(path: Path) -> BinaryIO:
    """The unpacked content of a file, to be read once.

    Raises OSError if the system doesn't give it, UsageError for a pipe or a device, a zip file or a
    Git LFS pointer, and while it is read for one that can't be unpacked.
    """
    check_regular(path)
    raw = path.open("rb")
    start = raw.read(len(_LFS_POINTER))
    raw.close()
    if start.startswith(b"PK\x03\x04"):
        raise UsageError("a zip file", where=str(path), hint="Unpack it, and name its folder.")
    if start == _LFS_POINTER:
        raise UsageError(
            "only the pointer of a file that Git LFS keeps", where=str(path), hint="`git lfs pull`"
        )
    unpack = next((open_it for mark, open_it in _PACKERS if start.startswith(mark)), None)
    if unpack is None:
        return path.open("rb")
    return io.BufferedReader(_Unpacked(path, unpack), 2**20)


def read_data(path: Path) -> bytes:
    """The whole unpacked content; errors as `open_data`'s."""
    with open_data(path) as file:
        return file.read()


class _Unpacked(io.RawIOBase):
    """Unpacked bytes. What is wrong with the packing is a UsageError."""

    def __init__(self, path: Path, unpack: Callable[[Path], Any]) -> None:
        self._path = path
        self._largest = max(_SMALLEST_TRAP, _LARGEST_GROWTH * path.stat().st_size)
        self._size = 0
        self._file = unpack(path)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            data = cast(bytes, self._file.read(len(buffer)))
        except (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError) as error:
            reason = str(error).strip() or type(error).__name__
            raise UsageError(f"can't be unpacked: {reason[:200]}", where=str(self._path)) from error
        self._size += len(data)
        if self._size > self._largest:
            raise UsageError(
                f"unpacks to more than {self._largest:,} bytes, which no text does",
                where=str(self._path),
                hint="Unpack it yourself if it is what it should be.",
            )
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


def _zstandard(path: Path) -> Any:
    try:
        import pyarrow as pa
    except ImportError as error:
        raise UsageError(
            "packed with Zstandard, which pyarrow unpacks and is not installed",
            where=str(path),
            hint="pip install 'tuneserve[train]', or unpack it: zstd -d",
        ) from error
    return pa.input_stream(str(path), compression="zstd")


_PACKERS: tuple[tuple[bytes | tuple[bytes, ...], Callable[[Path], Any]], ...] = (
    (b"\x1f\x8b", gzip.GzipFile),
    (b"\x28\xb5\x2f\xfd", _zstandard),
    (tuple(b"BZh%d1AY&SY" % level for level in range(1, 10)), bz2.BZ2File),
    (b"\xfd7zXZ\x00", lzma.LZMAFile),
)
