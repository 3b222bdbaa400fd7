"""Collecting an importance matrix through llama.cpp's evaluation callback.

The sums are float32, added row by row in llama.cpp's order: what comes out is llama-imatrix's
matrix to the last bit, where both run on the same build of llama.cpp.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tuneserve.convert.imatrix.matrix import Importance, ImportanceMatrix
from tuneserve.errors import TuneserveError
from tuneserve.llama import LlamaContext, LlamaModel, TokenBatch, ggml, llama_module

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
    longest = max(len(chunk) for chunk in chunks)
    batch = TokenBatch(longest)
    # Attention is computed as llama-imatrix has it, which leaves it to llama.cpp.
    with LlamaContext(
        model, n_ctx=longest, n_batch=longest, n_ubatch=longest, threads=threads,
        flash_attention=None, on_tensor=collector.callback,
    ) as context:  # fmt: skip
        for chunk in chunks:
            context.clear()
            batch.clear()
            # Outputs for all, else the last layer is computed for one token only.
            batch.add(chunk, 0, 0, outputs=len(chunk))
            context.decode(batch)
            if collector.error is not None:
                raise collector.error
            advance(len(chunk))
    return ImportanceMatrix(collector.weights, len(chunks), longest)


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
            tensor = ggml.GGMLTensor.at(address)
            if tensor.op != self._multiplication:
                return not asked
            name = weight_name(ggml.GGMLTensor.at(tensor.src[0]).name.decode())
            inputs = ggml.GGMLTensor.at(tensor.src[1])
            if asked:
                wanted = name.startswith("blk.") and inputs.ne[1] >= SMALLEST_BATCH
                return bool(wanted and inputs.type == F32)
            self._add(name, inputs)
        except Exception as error:
            self.error = error
            return False
        return True

    def _add(self, name: str, inputs: ggml.GGMLTensor) -> None:
        """Add the squares of `inputs` (ne0 columns, float32) to the sums of weight `name`."""
        columns = inputs.ne[0]
        rows = inputs.values().reshape(-1, columns)
        entry = self.weights.setdefault(name, Importance(np.zeros(columns, dtype=np.float32)))
        # NumPy adds along the first axis row after row, as llama.cpp does.
        entry.sums = np.add.reduce(np.concatenate([entry.sums[None, :], rows * rows]), axis=0)
        entry.tokens += len(rows)
        if not np.isfinite(entry.sums).all():
            raise TuneserveError(f"activations that are not finite at {name}")


def weight_name(name: str) -> str:
    """A weight's name without what the scheduler puts around a copy: 'CUDA0#NAME#0'."""
    return name.split("#")[1] if "#" in name else name
