"""Collecting an importance matrix through llama.cpp's evaluation callback.

The sums are float32, added row by row in llama.cpp's order: what comes out is llama-imatrix's
matrix to the last bit, where both run on the same build of llama.cpp.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tuneserve.arrays import Floats, Ids
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
            try:
                context.decode(batch)
            finally:
                if collector.error is not None:
                    raise collector.error
            advance(len(chunk))
    return ImportanceMatrix(collector.weights, len(chunks), longest)


class _Collector:
    """Sums what llama.cpp shows its evaluation callback.

    `error` keeps what went wrong inside, or ended the process (SIGTERM, Ctrl-C): an exception must
    not cross into C, where it would be lost.
    """

    def __init__(self) -> None:
        self.weights: dict[str, Importance] = {}
        self.error: BaseException | None = None
        self._multiplication = ggml.operation_number("MUL_MAT")
        self._of_experts = ggml.operation_number("MUL_MAT_ID")
        # Kept here because llama.cpp holds only a pointer to it.
        self.callback = llama_module().llama_cpp.ggml_backend_sched_eval_callback(self._called)

    def _called(self, address: int, asked: bool, _: Any) -> bool:
        """llama.cpp asks first whether a tensor is wanted, then shows it computed."""
        try:
            tensor = ggml.GGMLTensor.at(address)
            if tensor.op not in (self._multiplication, self._of_experts):
                return not asked
            weight = ggml.GGMLTensor.at(tensor.src[0])
            name = weight_name(weight.name.decode())
            inputs = ggml.GGMLTensor.at(tensor.src[1])
            if tensor.op == self._of_experts:
                if not asked:
                    chosen = ggml.GGMLTensor.at(tensor.src[2]).values(np.int32)[0, 0]
                    self._add_experts(name, inputs, chosen, weight.ne[2])
                return True
            if asked:
                wanted = name.startswith("blk.") and inputs.ne[1] >= SMALLEST_BATCH
                return bool(wanted and inputs.type == F32)
            self._add(name, inputs, weight.ne[2])
        except BaseException as error:
            self.error = error
            return False
        return True

    def _add(self, name: str, inputs: ggml.GGMLTensor, matrices: int) -> None:
        """Add the squares of `inputs` (ne0 columns, float32) to the sums of weight `name`, which
        has `matrices` of its own, each for its part of the inputs."""
        columns = inputs.ne[0]
        rows = inputs.values().reshape(-1, matrices, inputs.ne[1], columns)
        shape = (matrices, columns) if matrices > 1 else (columns,)
        entry = self.weights.setdefault(name, Importance(np.zeros(shape, dtype=np.float32)))
        for matrix, sums in enumerate(np.atleast_2d(entry.sums)):
            _add_squares(sums, rows[:, matrix].reshape(-1, columns))
        entry.tokens += rows.size // columns // matrices
        _check_finite(name, entry)

    def _add_experts(self, name: str, inputs: ggml.GGMLTensor, chosen: Ids, experts: int) -> None:
        """Add the squares of what each expert got. `chosen` [tokens, used]: which experts; `inputs`
        [tokens, used or 1, columns]."""
        columns = inputs.ne[0]
        rows = inputs.values()[0]
        sums = np.zeros((experts, columns), dtype=np.float32)
        entry = self.weights.setdefault(name, Importance(sums, np.zeros(experts, dtype=np.int64)))
        for expert in np.unique(chosen):
            # llama.cpp goes through the first choice of every token, then the second.
            used, tokens = np.nonzero(expert == chosen.T)
            _add_squares(entry.sums[expert], rows[tokens, used % rows.shape[1]])
        entry.tokens += np.bincount(chosen.reshape(-1), minlength=experts)
        _check_finite(name, entry)


def _add_squares(sums: Floats, rows: Floats) -> None:
    """Add the squares of `rows` to `sums`, in place."""
    # NumPy adds along the first axis row after row, as llama.cpp does.
    np.add.reduce(np.concatenate([sums[None, :], rows * rows]), axis=0, out=sums)


def _check_finite(name: str, entry: Importance) -> None:
    if not np.isfinite(entry.sums).all():
        raise TuneserveError(f"activations that are not finite at {name}")


def weight_name(name: str) -> str:
    """A weight's name without what the scheduler puts around a copy: 'CUDA0#NAME#0'."""
    return name.split("#")[1] if "#" in name else name
