"""Writing a GGUF from a stream of tensors, quantized as they pass.

Worker threads each take a slab of rows: read, merge, round, quantize. The slabs are written in
order, and no more than a few wait at a time, so that memory stays small and no full-size
intermediate file is written.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from tuneserve.arrays import Bytes, Floats
from tuneserve.convert.gguf.quantization import Choice
from tuneserve.convert.gguf.tensors import TensorFile
from tuneserve.convert.slabs import one_blas_thread
from tuneserve.llama import ggml

SLAB_VALUES = 2 * 1024 * 1024


class RowSource(Protocol):
    """A tensor that is read by rows."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def rows(self, start: int, stop: int) -> Floats:
        """Rows [start, stop) as float32; for a vector: elements."""


@dataclass(frozen=True)
class CopiedTensor:
    """A tensor that another GGUF has already, in the type it is to have."""

    file: TensorFile
    name: str

    @property
    def shape(self) -> tuple[int, ...]:
        return self.file.shape(self.name)

    def rows(self, start: int, stop: int) -> Floats:
        return self.file.rows_at(self.name, np.arange(start, stop))


@dataclass(frozen=True)
class Slab:
    """Rows [start, stop) of a tensor, to be encoded as `type`."""

    source: RowSource
    type: str
    start: int
    stop: int
    importance: Floats | None

    def encoded(self) -> Bytes:
        """The rows as the bytes that go into the file. Raises TuneserveError for values that are
        not finite, or too large for float16."""
        if isinstance(self.source, CopiedTensor):
            return self.source.file.encoded(self.source.name, self.start, self.stop)
        values = self.source.rows(self.start, self.stop)
        if self.type == "F32":
            return np.ascontiguousarray(values, dtype="<f4").view(np.uint8).reshape(-1)
        if self.type == "BF16":
            return ggml.quantize(values, self.type, self.importance).reshape(-1)
        halves = as_float16(values)
        # Quantization may hide a value that is not finite; here it shows.
        ggml.check_values(halves.view(np.uint8), "F16")
        if self.type == "F16":
            return halves.view(np.uint8).reshape(-1)
        return ggml.quantize(halves.astype(np.float32), self.type, self.importance).reshape(-1)


def as_float16(values: Floats) -> npt.NDArray[np.float16]:
    # A value beyond float16 becomes infinite here, and is refused by the caller.
    with np.errstate(over="ignore"):
        return values.astype("<f2")


def write_gguf(
    path: Path,
    metadata: Mapping[str, tuple[str, Any]],
    sources: Mapping[str, RowSource],
    choices: Sequence[Choice],
    *,
    threads: int,
    importance: Mapping[str, Floats] | None = None,
    advance: Callable[[float], None] = lambda _: None,
) -> None:
    """Write `path`: metadata (key → (type, value)) and the tensors in the order of `choices`.

    Quantized types are made from values rounded to float16 first, so that the file equals one
    quantized from an F16 GGUF. `advance` gets the count of values done.
    """
    writer = _open(path, metadata, sources, choices)
    try:
        with one_blas_thread(), ThreadPoolExecutor(threads) as pool:
            _write_tensors(writer, pool, sources, choices, importance or {}, threads, advance)
    finally:
        writer.close()


def _open(
    path: Path,
    metadata: Mapping[str, tuple[str, Any]],
    sources: Mapping[str, RowSource],
    choices: Sequence[Choice],
) -> Any:
    from gguf import GGMLQuantizationType, GGUFValueType, GGUFWriter

    writer = GGUFWriter(path, "", use_temp_file=False)
    for key in list(writer.kv_data[0]):
        del writer.kv_data[0][key]  # the architecture comes with the metadata, in its place
    for key, (kind, value) in metadata.items():
        writer.add_key_value(key, value, GGUFValueType[kind.upper()])
    for choice in choices:
        shape = sources[choice.name].shape
        writer.add_tensor_info(
            choice.name, shape, np.dtype(np.float32), encoded_size(shape, choice.type),
            raw_dtype=GGMLQuantizationType[choice.type],
        )  # fmt: skip
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    return writer


def encoded_size(shape: tuple[int, ...], type_name: str) -> int:
    """Bytes of a tensor of this shape as it is stored in a GGUF."""
    rows = int(np.prod(shape[:-1], dtype=np.int64))
    return rows * ggml.row_bytes(type_name, shape[-1])


def _write_tensors(
    writer: Any,
    pool: ThreadPoolExecutor,
    sources: Mapping[str, RowSource],
    choices: Sequence[Choice],
    importance: Mapping[str, Floats],
    threads: int,
    advance: Callable[[float], None],
) -> None:
    file = writer.fout[0]
    writer.write_padding(file, file.tell())
    slabs = (
        (choice, slab)
        for choice in choices
        for slab in slabs_of(sources[choice.name], choice.type, importance.get(choice.name))
    )
    waiting: deque[tuple[Choice, Slab, Future[Bytes]]] = deque()

    def submit() -> bool:
        following = next(slabs, None)
        if following is None:
            return False
        choice, slab = following
        waiting.append((choice, slab, pool.submit(slab.encoded)))
        return True

    for _ in range(2 * threads):
        submit()
    try:
        while waiting:
            choice, slab, future = waiting.popleft()
            future.result().tofile(file)
            if slab.stop == slab.source.shape[0]:
                writer.write_padding(file, encoded_size(slab.source.shape, choice.type))
            advance((slab.stop - slab.start) * row_values(slab.source.shape))
            submit()
    finally:
        for _, _, future in waiting:
            future.cancel()


def slabs_of(source: RowSource, type_name: str, importance: Floats | None) -> Iterator[Slab]:
    """A tensor in slabs of whole rows."""
    rows = source.shape[0]
    step = rows if len(source.shape) == 1 else max(1, SLAB_VALUES // row_values(source.shape))
    for start in range(0, rows, step):
        yield Slab(source, type_name, start, min(start + step, rows), importance)


def row_values(shape: tuple[int, ...]) -> int:
    return int(np.prod(shape[1:], dtype=np.int64))
