"""Collecting an importance matrix through llama.cpp's evaluation callback.

The sums are float32, added row by row in llama.cpp's order: what comes out is llama-imatrix's
matrix to the last bit, where both run on the same build of llama.cpp.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tuneserve.convert import ggml
from tuneserve.convert.imatrix.matrix import Importance, ImportanceMatrix
from tuneserve.errors import TuneserveError
from tuneserve.llama import LlamaModel, backend, llama_module, physical_cores

SMALLEST_BATCH = 16  # llama.cpp leaves smaller ones out: prompts are what counts, not single tokens
F32 = 0


def collect(
    model: LlamaModel,
    chunks: Sequence[Sequence[int]],
    *,
    threads: int = 0,
    advance: Callable[[float], None] = lambda _: None,
) -> ImportanceMatrix:
    """Run `chunks` of token ids through the model; `advance` gets the tokens done.

    Raises TuneserveError if an activation is not finite.
    """
    collector = _Collector()
    api = backend()
    longest = max(len(chunk) for chunk in chunks)
    context = _make_context(model, collector, longest, threads or physical_cores())
    batch = api.llama_batch_init(longest, 0, 1)
    try:
        for chunk in chunks:
            _decode(context, batch, chunk)
            if collector.error is not None:
                raise collector.error
            advance(len(chunk))
    finally:
        api.llama_batch_free(batch)
        api.llama_free(context)
    return ImportanceMatrix(collector.weights, len(chunks), longest)


def _make_context(model: LlamaModel, collector: _Collector, n_ctx: int, threads: int) -> Any:
    api = backend()
    params = api.llama_context_default_params()
    params.n_ctx = params.n_batch = params.n_ubatch = n_ctx
    params.n_threads = params.n_threads_batch = threads
    params.cb_eval = collector.callback
    context = api.llama_init_from_model(model.handle, params)
    if not context:
        raise TuneserveError("llama.cpp can't make a context", where=str(model.path))
    return context


def _decode(context: Any, batch: Any, chunk: Sequence[int]) -> None:
    api = backend()
    api.llama_memory_clear(api.llama_get_memory(context), True)
    batch.n_tokens = len(chunk)
    for i, token in enumerate(chunk):
        batch.token[i], batch.pos[i] = token, i
        batch.n_seq_id[i], batch.seq_id[i][0] = 1, 0
        batch.logits[i] = True  # else the last layer is computed for one token only
    status = api.llama_decode(context, batch)
    if status != 0:
        raise TuneserveError(f"llama_decode failed with status {status}")


class _Tensor(ctypes.Structure):
    """The head of `struct ggml_tensor` (ggml.h), as far as it is read here."""

    _fields_ = (
        ("type", ctypes.c_int), ("buffer", ctypes.c_void_p), ("ne", ctypes.c_int64 * 4),
        ("nb", ctypes.c_size_t * 4), ("op", ctypes.c_int), ("op_params", ctypes.c_int32 * 16),
        ("flags", ctypes.c_int32), ("src", ctypes.c_void_p * 10), ("view_src", ctypes.c_void_p),
        ("view_offs", ctypes.c_size_t), ("data", ctypes.c_void_p), ("name", ctypes.c_char * 64),
    )  # fmt: skip

    @classmethod
    def at(cls, address: int) -> _Tensor:
        """The tensor at `address`. Raises TuneserveError if the installed ggml lays it out in
        another way: its name, which comes last, would lie elsewhere."""
        if ggml.name_address(address) != address + cls.name.offset:
            raise TuneserveError(
                "the installed llama.cpp keeps its tensors in a way this release does not know",
                hint="Install the llama-cpp-python release that tuneserve asks for.",
            )
        return cls.from_address(address)


class _Collector:
    """Sums what llama.cpp shows its evaluation callback.

    `error` keeps what went wrong inside: an exception must not cross into C.
    """

    def __init__(self) -> None:
        self.weights: dict[str, Importance] = {}
        self.error: Exception | None = None
        self._multiplication = ggml.operation_number("MUL_MAT")
        # Kept here because llama.cpp holds only a pointer to it.
        self.callback = llama_module().llama_cpp.ggml_backend_sched_eval_callback(self._called)

    def _called(self, address: int, asked: bool, _: Any) -> bool:
        """llama.cpp asks first whether a tensor is wanted, then shows it computed."""
        try:
            tensor = _Tensor.at(address)
            if tensor.op != self._multiplication:
                return not asked
            name = weight_name(_Tensor.at(tensor.src[0]).name.decode())
            inputs = _Tensor.at(tensor.src[1])
            if asked:
                wanted = name.startswith("blk.") and inputs.ne[1] >= SMALLEST_BATCH
                return bool(wanted and inputs.type == F32)
            self._add(name, inputs)
        except Exception as error:
            self.error = error
            return False
        return True

    def _add(self, name: str, inputs: _Tensor) -> None:
        """Add the squares of `inputs` (ne0 columns, float32) to the sums of weight `name`."""
        columns = inputs.ne[0]
        values = ggml.tensor_bytes(ctypes.addressof(inputs)).view(np.float32)
        strides = (inputs.nb[3], inputs.nb[2], inputs.nb[1], inputs.nb[0])
        shape = (inputs.ne[3], inputs.ne[2], inputs.ne[1], columns)
        rows = np.lib.stride_tricks.as_strided(values, shape, strides).reshape(-1, columns)
        entry = self.weights.setdefault(name, Importance(np.zeros(columns, dtype=np.float32)))
        # NumPy adds along the first axis row after row, as llama.cpp does.
        entry.sums = np.add.reduce(np.concatenate([entry.sums[None, :], rows * rows]), axis=0)
        entry.tokens += len(rows)
        if not np.isfinite(entry.sums).all():
            raise TuneserveError(f"activations that are not finite at {name}")


def weight_name(name: str) -> str:
    """A weight's name without what the scheduler puts around a copy: 'CUDA0#NAME#0'."""
    return name.split("#")[1] if "#" in name else name
