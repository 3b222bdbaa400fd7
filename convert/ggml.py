"""ggml's own quantization kernels, from the library that llama-cpp-python installs."""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tuneserve.errors import TuneserveError

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]


@cache
def _library() -> Any:
    import llama_cpp

    folder = Path(llama_cpp.__file__).parent / "lib"
    found = sorted(folder.glob("*ggml-base.*"))
    if not found:
        raise TuneserveError(
            "llama-cpp-python's ggml-base library is missing",
            where=str(folder),
            hint="Install it again: pip install --force-reinstall llama-cpp-python",
        )
    library = ctypes.CDLL(str(found[0]))
    floats = ctypes.POINTER(ctypes.c_float)
    library.ggml_quantize_chunk.restype = ctypes.c_size_t
    library.ggml_quantize_chunk.argtypes = [
        ctypes.c_int, floats, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64,
        floats,
    ]  # fmt: skip
    library.ggml_validate_row_data.restype = ctypes.c_bool
    library.ggml_validate_row_data.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t]
    library.ggml_row_size.restype = ctypes.c_size_t
    library.ggml_row_size.argtypes = [ctypes.c_int, ctypes.c_int64]
    return library


@cache
def type_number(name: str) -> int:
    from gguf import GGMLQuantizationType

    return int(GGMLQuantizationType[name])


def row_bytes(type_name: str, columns: int) -> int:
    """Size of one row of `columns` values."""
    return int(_library().ggml_row_size(type_number(type_name), columns))


def quantize(values: Floats, type_name: str, importance: Floats | None = None) -> Bytes:
    """Rows of float32 [rows, columns] as bytes [rows, row_bytes] of a ggml type.

    `importance` [columns]: an importance matrix's weights of the columns. The work is done outside
    Python's lock, so that threads run side by side. Raises TuneserveError for values that are
    not finite or too large.
    """
    values = np.ascontiguousarray(values, dtype=np.float32)
    rows, columns = values.shape
    number = type_number(type_name)
    result = np.empty((rows, row_bytes(type_name, columns)), dtype=np.uint8)
    pointer = ctypes.POINTER(ctypes.c_float)
    weights = (
        None
        if importance is None
        else np.ascontiguousarray(importance, dtype=np.float32).ctypes.data_as(pointer)
    )
    library = _library()
    library.ggml_quantize_chunk(
        number, values.ctypes.data_as(pointer), result.ctypes.data, 0, rows, columns, weights
    )
    check_values(result, type_name)
    return result


def check_values(data: Bytes, type_name: str) -> None:
    """Raise TuneserveError if rows of a type hold infinities or NaN (too large, or damaged)."""
    valid = _library().ggml_validate_row_data(type_number(type_name), data.ctypes.data, data.nbytes)
    if not valid:
        raise TuneserveError(f"a weight is not finite, or too large for {type_name}")
