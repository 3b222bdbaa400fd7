"""llama.cpp's own quantizer: a GGUF of any architecture that it knows, in another type.

`python -m tuneserve.llama.quantizer SOURCE TARGET FILE_TYPE THREADS [IMATRIX]`: in a process of its
own, so that it can be ended; the call itself hears no signal.
"""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

from tuneserve.child import own_module, run_child
from tuneserve.console import say
from tuneserve.errors import TuneserveError
from tuneserve.gguf.reader import GGUFFile
from tuneserve.llama.library import backend, last_error

_SUMS, _COUNTS = ".in_sum2", ".counts"


def quantize_gguf(
    source: Path, target: Path, file_type: int, *, threads: int, imatrix: Path | None = None
) -> None:
    """Write `target` of the F32, F16 or BF16 GGUF `source`; `file_type` is the number of the
    quantization in a GGUF (`llama_ftype`), `imatrix` an importance matrix's file.

    Raises TuneserveError if llama.cpp refuses; nothing is left then.
    """
    arguments = [str(source), str(target), str(file_type), str(threads)]
    if imatrix is not None:
        arguments.append(str(imatrix))
    command = own_module("tuneserve.llama.quantizer", *arguments)
    try:
        run_child(command, what="llama.cpp's quantizer", env={"CUDA_VISIBLE_DEVICES": ""})
    except TuneserveError:
        target.unlink(missing_ok=True)
        raise


def _importance(path: Path) -> tuple[Any, list[Any]]:
    """The matrix as llama.cpp takes it: entries up to one without a name. The list keeps their
    memory alive."""
    api, file = backend(), GGUFFile(path)
    names = [name.removesuffix(_SUMS) for name in file.tensors if name.endswith(_SUMS)]
    means = []
    for name in names:
        counts = np.maximum(file.dequantized(name + _COUNTS).reshape(-1, 1), 1)
        sums = file.dequantized(name + _SUMS)
        means.append(np.ascontiguousarray(sums.reshape(len(counts), -1) / counts, np.float32))
    entries = (api.llama_model_imatrix_data * (len(names) + 1))()
    for entry, name, values in zip(entries, names, means, strict=False):
        entry.name, entry.size = name.encode(), values.size
        entry.data = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
    return entries, means


def _main(source: str, target: str, file_type: str, threads: str, imatrix: str = "") -> int:
    api = backend()
    params = api.llama_model_quantize_default_params()
    params.ftype, params.nthread = int(file_type), int(threads)
    kept = _importance(Path(imatrix)) if imatrix else None
    if kept is not None:
        params.imatrix = kept[0]
    if api.llama_model_quantize(os.fsencode(source), os.fsencode(target), params):
        say(last_error(), lines=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(_main(*sys.argv[1:]))
