"""ggml's quantization kernels and tensors, from the library that llama-cpp-python installs."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

import numpy as np

from tuneserve.arrays import Bytes, Floats
from tuneserve.errors import TuneserveError
from tuneserve.llama.library import llama_module


class _TypeTraits(ctypes.Structure):
    """`struct ggml_type_traits` of this release."""

    _fields_ = (
        ("type_name", ctypes.c_char_p), ("block", ctypes.c_int64), ("interleaved", ctypes.c_int64),
        ("block_bytes", ctypes.c_size_t), ("is_quantized", ctypes.c_bool),
        ("to_float", ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)),
        ("from_float", ctypes.c_void_p),
    )  # fmt: skip


@cache
def _library() -> Any:
    llama_module()  # loads the C++ runtime that ggml is to share
    from llama_cpp._ggml import libggml

    integer, long = ctypes.c_int, ctypes.c_int64
    address, size, floats = ctypes.c_void_p, ctypes.c_size_t, ctypes.POINTER(ctypes.c_float)
    signatures = {
        "ggml_quantize_chunk": (size, integer, floats, address, long, long, long, floats),
        "ggml_validate_row_data": (ctypes.c_bool, integer, address, size),
        "ggml_row_size": (size, integer, long),
        "ggml_op_name": (ctypes.c_char_p, integer),
        "ggml_get_name": (address, address),
        "ggml_nbytes": (size, address),
        "ggml_backend_tensor_get": (None, address, address, size, size),
        "ggml_get_type_traits": (ctypes.POINTER(_TypeTraits), integer),
    }
    for name, (result, *arguments) in signatures.items():
        function = getattr(libggml, name)
        function.restype, function.argtypes = result, arguments
    return libggml


@cache
def operation_number(name: str) -> int:
    """ggml's number of an operation ('MUL_MAT') in this release."""
    for number in range(256):
        if _library().ggml_op_name(number) == name.encode():
            return number
    raise TuneserveError(f"this ggml has no operation '{name}'")


class GGMLTensor(ctypes.Structure):
    """The head of `struct ggml_tensor` (ggml.h), as far as it is read here."""

    _fields_ = (
        ("type", ctypes.c_int), ("buffer", ctypes.c_void_p), ("ne", ctypes.c_int64 * 4),
        ("nb", ctypes.c_size_t * 4), ("op", ctypes.c_int), ("op_params", ctypes.c_int32 * 16),
        ("flags", ctypes.c_int32), ("src", ctypes.c_void_p * 10), ("view_src", ctypes.c_void_p),
        ("view_offs", ctypes.c_size_t), ("data", ctypes.c_void_p), ("name", ctypes.c_char * 64),
    )  # fmt: skip

    @classmethod
    def at(cls, address: int) -> GGMLTensor:
        """The tensor at `address`. Raises TuneserveError if the installed ggml lays it out in
        another way: its name, which comes last, would lie elsewhere."""
        if int(_library().ggml_get_name(address)) != address + cls.name.offset:
            raise TuneserveError(
                "the installed llama.cpp keeps its tensors in a way this release does not know",
                hint="Install the llama-cpp-python release that tuneserve asks for.",
            )
        return cls.from_address(address)

    def values(self, dtype: Any = np.float32) -> Any:
        """A copy of the tensor's values (of four bytes each) in C order [ne3, ne2, ne1, ne0], from
        whatever device holds them."""
        library, address = _library(), ctypes.addressof(self)
        data = np.empty(library.ggml_nbytes(address), dtype=np.uint8)
        library.ggml_backend_tensor_get(address, data.ctypes.data, 0, data.nbytes)
        strides, shape = tuple(self.nb)[::-1], tuple(self.ne)[::-1]
        return np.lib.stride_tricks.as_strided(data.view(dtype), shape, strides)


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


def dequantize(data: Bytes, type_name: str, columns: int) -> Floats:
    """Rows of bytes [rows, row_bytes] of a ggml type as float32 [rows, columns]."""
    data = np.ascontiguousarray(data)
    if type_name == "F32":
        return data.view(np.float32).reshape(-1, columns)
    result = np.empty((data.size // row_bytes(type_name, columns), columns), dtype=np.float32)
    traits = _library().ggml_get_type_traits(type_number(type_name)).contents
    traits.to_float(data.ctypes.data, result.ctypes.data, result.size)
    return result


def check_values(data: Bytes, type_name: str) -> None:
    """Raise TuneserveError if rows of a type hold infinities or NaN (too large, or damaged)."""
    valid = _library().ggml_validate_row_data(type_number(type_name), data.ctypes.data, data.nbytes)
    if not valid:
        raise TuneserveError(f"a weight is not finite, or too large for {type_name}")
