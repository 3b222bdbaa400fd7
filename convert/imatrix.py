"""The importance matrix: how much each column of a weight matters, measured on real texts.

For every weight that llama.cpp multiplies with, the squares of what comes in are summed column by
column; quantization then spends its precision where the sums are large. Collected through
llama.cpp's evaluation callback, kept in llama.cpp's own imatrix GGUF format
(llama.cpp, tools/imatrix).
"""

from __future__ import annotations

import ctypes
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from convert import ggml
from convert.gguf_output import write_gguf
from convert.model import ComputedTensor
from convert.quantization import Choice
from tuneserve.base.gguf_file import GGUFFile
from tuneserve.errors import TuneserveError, UsageError
from tuneserve.llama import LlamaModel, backend, physical_cores
from tuneserve.prompt import encode_text, template_of

Floats = npt.NDArray[np.float32]
CHUNK = 512
SMALLEST_BATCH = 16  # llama.cpp leaves smaller ones out: prompts are what counts, not single tokens


@dataclass
class Importance:
    """Of one weight: sums of squares by column, and over how many tokens."""

    sums: npt.NDArray[np.float64]
    tokens: int = 0

    def means(self) -> Floats:
        """What the quantizer takes: the mean square by column, float32."""
        return (self.sums / self.tokens).astype(np.float32)


@dataclass(frozen=True)
class ImportanceMatrix:
    """Importance by GGUF tensor name; `chunks` of at most `chunk_size` tokens were read."""

    weights: Mapping[str, Importance]
    chunks: int
    chunk_size: int = CHUNK
    datasets: tuple[str, ...] = ()

    def means(self) -> dict[str, Floats]:
        return {name: importance.means() for name, importance in self.weights.items()}

    def write(self, path: Path) -> None:
        """Write llama.cpp's imatrix GGUF."""
        tensors: dict[str, ComputedTensor] = {}
        for name, importance in sorted(self.weights.items()):
            sums = importance.sums.astype(np.float32)[None, :]
            counts = np.asarray([[importance.tokens]], dtype=np.float32)
            tensors[f"{name}.in_sum2"] = ComputedTensor(sums)
            tensors[f"{name}.counts"] = ComputedTensor(counts)
        metadata = {
            "general.type": ("string", "imatrix"),
            "imatrix.datasets": ("array", list(self.datasets) or ["training examples"]),
            "imatrix.chunk_count": ("uint32", self.chunks),
            "imatrix.chunk_size": ("uint32", self.chunk_size),
        }
        choices = [Choice(name, "F32") for name in tensors]
        write_gguf(path, metadata, tensors, choices, threads=1)

    @classmethod
    def read(cls, path: Path) -> ImportanceMatrix:
        """Read llama.cpp's imatrix GGUF. Raises UsageError for another kind of file."""
        gguf = GGUFFile(path)
        if gguf.get("general.type") != "imatrix":
            raise UsageError("not an importance matrix", where=str(path))
        weights = {}
        for key in gguf.tensors:
            if key.endswith(".in_sum2"):
                name = key.removesuffix(".in_sum2")
                tokens = int(gguf.dequantized(f"{name}.counts").item())
                sums = gguf.dequantized(key).reshape(-1).astype(np.float64)
                if tokens:
                    weights[name] = Importance(sums, tokens)
        return cls(
            weights, gguf.require("imatrix.chunk_count"), gguf.require("imatrix.chunk_size"),
            tuple(gguf.get("imatrix.datasets", [])),
        )  # fmt: skip


def collect(
    model: LlamaModel,
    chunks: Sequence[Sequence[int]],
    *,
    threads: int = 0,
    advance: Callable[[float], None] = lambda _: None,
) -> ImportanceMatrix:
    """Run `chunks` of token ids through the model; `advance` gets the tokens done."""
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


def chunks_of(ids: Sequence[int], size: int = CHUNK) -> list[list[int]]:
    """A stream of ids in pieces of `size`; a tail shorter than SMALLEST_BATCH is dropped."""
    pieces = [list(ids[at : at + size]) for at in range(0, len(ids), size)]
    return [piece for piece in pieces if len(piece) >= SMALLEST_BATCH]


def training_chunks(model: LlamaModel, examples: Path, tokens: int) -> list[list[int]]:
    """The first `tokens` tokens of the examples, rendered as the model sees them."""
    template = template_of(model)
    ids: list[int] = []
    with examples.open(encoding="utf-8") as lines:
        for line in lines:
            ids += encode_text(model, template.render(json.loads(line)["messages"]))
            if len(ids) >= tokens:
                break
    chunks = chunks_of(ids[:tokens])
    if not chunks:
        raise UsageError("too few training examples for an importance matrix", where=str(examples))
    return chunks


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
    """The head of `struct ggml_tensor` (ggml.h of this release), as far as it is read here."""

    _fields_ = (
        ("type", ctypes.c_int), ("buffer", ctypes.c_void_p), ("ne", ctypes.c_int64 * 4),
        ("nb", ctypes.c_size_t * 4), ("op", ctypes.c_int), ("op_params", ctypes.c_int32 * 16),
        ("flags", ctypes.c_int32), ("src", ctypes.c_void_p * 10), ("view_src", ctypes.c_void_p),
        ("view_offs", ctypes.c_size_t), ("data", ctypes.c_void_p), ("name", ctypes.c_char * 64),
    )  # fmt: skip


class _Collector:
    """Sums what llama.cpp shows its evaluation callback.

    `error` keeps what went wrong inside: an exception must not cross into C.
    """

    def __init__(self) -> None:
        import llama_cpp

        self.weights: dict[str, Importance] = {}
        self.error: Exception | None = None
        self._multiplication = ggml.operation_number("MUL_MAT")
        # Kept here because llama.cpp holds only a pointer to it.
        self.callback = llama_cpp.llama_cpp.ggml_backend_sched_eval_callback(self._called)

    def _called(self, address: int, asked: bool, _: Any) -> bool:
        try:
            tensor = _Tensor.from_address(address)
            if tensor.op != self._multiplication:
                return not asked
            weight = _Tensor.from_address(tensor.src[0])
            name = weight.name.decode()
            name = name.split("#")[1] if "#" in name else name
            inputs = _Tensor.from_address(tensor.src[1])
            wanted = name.startswith("blk.") and inputs.ne[1] >= SMALLEST_BATCH
            if asked:
                return bool(wanted and inputs.type == 0)
            self._add(name, inputs)
        except Exception as error:
            self.error = error
            return False
        return True

    def _add(self, name: str, inputs: _Tensor) -> None:
        columns = inputs.ne[0]
        values = ggml.tensor_bytes(ctypes.addressof(inputs)).view(np.float32)
        strides = (inputs.nb[3], inputs.nb[2], inputs.nb[1], inputs.nb[0])
        shape = (inputs.ne[3], inputs.ne[2], inputs.ne[1], columns)
        rows = np.lib.stride_tricks.as_strided(values, shape, strides).reshape(-1, columns)
        entry = self.weights.setdefault(name, Importance(np.zeros(columns, dtype=np.float64)))
        entry.sums += np.einsum("ij,ij->j", rows, rows, dtype=np.float64)
        entry.tokens += len(rows)
        if not np.isfinite(entry.sums).all():
            raise TuneserveError(f"activations that are not finite at {name}")
