"""Writing a safetensors file one tensor at a time, so that no model has to fit in memory.

Format: 8 bytes little-endian header length, a JSON header, then the tensors' bytes in order
(https://huggingface.co/docs/safetensors). The library itself only saves what is all in memory.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

ITEM_BYTES = {"F32": 4, "F16": 2, "BF16": 2}


@dataclass(frozen=True)
class TensorSpec:
    """Name, element type ('F32', 'F16', 'BF16') and row-major shape of a tensor to come."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def size_bytes(self) -> int:
        count = 1
        for n in self.shape:
            count *= n
        return count * ITEM_BYTES[self.dtype]


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

    def write(self, name: str, data: bytes | memoryview) -> None:
        """The next tensor's bytes."""
        self.write_pieces(name, [data])

    def write_pieces(self, name: str, pieces: Iterable[bytes | memoryview]) -> None:
        """The next tensor's bytes, in pieces one after the other."""
        spec = self._waiting.pop()
        if spec.name != name:
            raise ValueError(f"expected {spec.name}, got {name}")
        size = 0
        for data in pieces:
            size += memoryview(data).nbytes
            self._file.write(data)
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
