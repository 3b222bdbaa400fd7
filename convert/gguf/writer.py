"""Writing a GGUF from a stream of tensors, quantized as they pass.

Worker threads each take a slab of rows: read, merge, round, quantize. The slabs are written in
order, and no more than a few wait at a time, so that memory stays small and no full-size
intermediate file is written.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from tuneserve.arrays import Bytes, Floats
from tuneserve.convert.gguf.quantization import Choice
from tuneserve.convert.gguf.stacks import StackedTensor
from tuneserve.convert.gguf.tensors import TensorFile
from tuneserve.convert.slabs import made_in_order, one_blas_thread, row_count, row_spans
from tuneserve.errors import TuneserveError
from tuneserve.llama import ggml

ALIGNMENT = 32
"""Tensors begin at a multiple of so many bytes in a GGUF."""
Digests = Mapping[str, Sequence[bytes]]
"""By tensor: the hash of each of its slabs (`slabs.row_spans`), as it was written."""


class RowSource(Protocol):
    """A tensor that is read by rows."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def rows(self, start: int, stop: int) -> Floats:
        """Rows [start, stop) as float32, all matrices' rows one after the other; for a vector:
        elements."""


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


def encoded_rows(
    source: RowSource, kind: str, start: int, stop: int, importance: Floats | None = None
) -> Bytes:
    """Rows [start, stop) as the bytes of a ggml type. Raises TuneserveError for values that are
    not finite, or too large for float16.

    `importance`: [columns], or of a stack of matrices [matrices, columns].
    """
    if isinstance(source, CopiedTensor):
        return source.file.encoded(source.name, start, stop)
    if kind == "MXFP4" and isinstance(source, StackedTensor) and source.packed is not None:
        return source.packed_rows(start, stop)
    values = source.rows(start, stop)
    if kind == "F32":
        if not np.isfinite(values).all():
            raise TuneserveError("a weight is not a finite number")
        return np.ascontiguousarray(values, dtype="<f4").view(np.uint8).reshape(-1)
    if kind == "BF16":
        return ggml.quantize(values, kind, importance).reshape(-1)
    halves = as_float16(values)
    # Quantization may hide a value that is not finite; here it shows.
    ggml.check_values(halves.view(np.uint8), "F16")
    if kind == "F16":
        return halves.view(np.uint8).reshape(-1)
    values = halves.astype(np.float32)
    if importance is None or importance.ndim == 1:
        return ggml.quantize(values, kind, importance).reshape(-1)
    height = source.shape[-2]
    pieces = [
        ggml.quantize(
            values[max(start, n * height) - start : (n + 1) * height - start], kind, importance[n]
        ).reshape(-1)
        for n in range(start // height, -(-stop // height))
    ]
    return np.concatenate(pieces)


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
) -> Digests:
    """Write `path`: metadata (key → (type, value)) and the tensors in the order of `choices`.
    Returns the hashes of what was given to the disk.

    Quantized types are made from values rounded to float16 first, so that the file equals one
    quantized from an F16 GGUF. `advance` gets the count of values done.
    """
    writer = _open(path, metadata, sources, choices)
    file = writer.fout[0]
    spans = (
        (choice, start, stop)
        for choice in choices
        for start, stop in row_spans(sources[choice.name].shape)
    )

    def encode(span: tuple[Choice, int, int]) -> tuple[Choice, int, int, Bytes, bytes]:
        choice, start, stop = span
        weights = (importance or {}).get(choice.name)
        source = sources[choice.name]
        try:
            data = encoded_rows(source, choice.type, start, stop, weights)
        except TuneserveError as error:
            place = getattr(source, "place", None) or choice.name
            raise TuneserveError(error.message, where=error.where or place) from error
        return choice, start, stop, data, digest(data)

    digests: dict[str, list[bytes]] = {choice.name: [] for choice in choices}
    try:
        writer.write_padding(file, file.tell())
        with one_blas_thread(), ThreadPoolExecutor(threads) as pool:
            for choice, start, stop, data, made in made_in_order(pool, encode, spans, 2 * threads):
                file.write(data.data)  # unlike tofile, its errors have a number
                digests[choice.name].append(made)
                shape = sources[choice.name].shape
                if stop == row_count(shape):
                    writer.write_padding(file, encoded_size(shape, choice.type))
                advance((stop - start) * (shape[-1] if len(shape) > 1 else 1))
    finally:
        writer.close()
    return digests


def header_size(
    metadata: Mapping[str, tuple[str, Any]],
    sources: Mapping[str, RowSource],
    choices: Sequence[Choice],
) -> int:
    """Bytes of such a GGUF before its first tensor: metadata with the vocabulary, tensor infos."""
    with TemporaryDirectory(prefix="tuneserve-") as folder:
        writer = _open(Path(folder) / "header.gguf", metadata, sources, choices)
        size = int(writer.fout[0].tell())
        writer.close()
    return -(-size // ALIGNMENT) * ALIGNMENT


def digest(data: Bytes) -> bytes:
    """SHA-256 of a slab as it is stored."""
    return hashlib.sha256(data.data).digest()


def _open(
    path: Path,
    metadata: Mapping[str, tuple[str, Any]],
    sources: Mapping[str, RowSource],
    choices: Sequence[Choice],
) -> Any:
    from gguf import GGMLQuantizationType, GGUFValueType

    from tuneserve.convert.gguf.array_writer import ArrayWriter

    writer = ArrayWriter(path, "", use_temp_file=False)
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
    return prod(shape[:-1]) * ggml.row_bytes(type_name, shape[-1])


def stored_size(shape: tuple[int, ...], type_name: str) -> int:
    """The same with the padding behind it."""
    return -(-encoded_size(shape, type_name) // ALIGNMENT) * ALIGNMENT
