"""Contract: every row of the file is the row of the model that was trained, as near as its type is.

The reference computations read every weight once anyway. What they read is compared with the same
rows of the file, found by their Hugging Face names: a tensor that stands under another's name, or a
row that was lost while it was written, differs by more than the rounding of its type.
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from tuneserve.arrays import Doubles, Floats
from tuneserve.convert.gguf.model import CheckpointTensor, GGUFModel
from tuneserve.convert.gguf.rounding_error import usual_rounding_error
from tuneserve.convert.gguf.stacks import StackedTensor
from tuneserve.convert.gguf.tensors import TensorFile
from tuneserve.convert.merge.experts import ExpertParameter
from tuneserve.convert.result import Check
from tuneserve.convert.slabs import row_count, row_spans
from tuneserve.convert.verify.weights import Weights, gguf_tensor

TIMES_MEDIAN = 4.0
"""A row may have so much more rounding error than the median row of its tensor. Types with a scale
for each block keep the error of any block, one dominated by an outlier too, within twice that of an
even one."""
MOST = 0.8
"""And no row may have more than this share of its length, whatever the others have: a row of zeros
has 1."""
EXACT = 1e-3  # float16's error, and of values below its normal range
SMALL_ROW = 0.1
"""Rows below this share of the tensor's usual length are measured by that: a type's smallest scale
may round them to zero."""


class ComparedWeights:
    """Weights that are compared with a GGUF's as they are read; safe to use from several
    threads."""

    def __init__(self, weights: Weights, file: TensorFile, model: GGUFModel) -> None:
        self._weights, self._file, self._model = weights, file, model
        self._stacks = {
            name: source
            for name, source in model.sources.items()
            if isinstance(source, StackedTensor)
        }
        self._errors: dict[str, Doubles] = {}
        self._lock = threading.Lock()

    def shape(self, name: str) -> tuple[int, ...]:
        return self._weights.shape(name)

    def rows(self, name: str, start: int = 0, stop: int | None = None) -> Floats:
        """Rows [start, stop) of the weights, as they are without a comparison."""
        values = self._weights.rows(name, start, stop)
        target = gguf_tensor(self._file, self._model, name)
        if target is not None and not self._is_done(target, start, start + len(values)):
            self._compare(target, name, start, values)
        return values

    def adds_bias(self, name: str) -> bool:
        return self._weights.adds_bias(name)

    def expert_parameter(self, name: str) -> ExpertParameter | None:
        return self._weights.expert_parameter(name)

    def expert(self, name: str, number: int) -> Floats | None:
        return self._weights.expert(name, number)

    def check(self, contract: str, *, threads: int) -> Check:
        """Reads what nobody has read, and says which tensors differ."""
        problems = []
        unread: list[tuple[str, tuple[int, int]]] = []
        stacked = {s for source in self._stacks.values() for s in source.names}
        for name in self._model.checkpoint.names:
            target = gguf_tensor(self._file, self._model, name)
            if name in stacked:
                continue
            if target is None:
                if self._model.architecture.gguf_tensor_name(name) is not None:
                    problems.append(f"{name} is missing")
                continue
            spans = row_spans(self._weights.shape(name))
            unread += [(name, span) for span in spans if not self._is_done(target, *span)]
        in_stacks = [
            (target, span)
            for target, source in self._stacks.items()
            if target in self._file.tensors
            for span in row_spans(source.shape)
        ]
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(lambda one: self.rows(one[0], *one[1]), unread))
            list(pool.map(self._compare_stack, in_stacks))
        problems += [found for target in self._errors if (found := self._problem(target))]
        compared = sum(len(errors) for errors in self._errors.values())
        worst = max((float(e.max()) for e in self._errors.values()), default=0.0)
        detail = f"all {compared} rows of {len(self._errors)} tensors, error at most {worst:.2f}"
        if problems:
            detail = "; ".join(problems[:5]) + (f" … ({len(problems)})" if problems[5:] else "")
        figures = {"rows": compared, "worst": worst, "wrong": len(problems)}
        return Check(contract, not problems, detail, figures)

    def _is_done(self, target: str, start: int, stop: int) -> bool:
        errors = self._errors.get(target)
        return errors is not None and not np.isnan(errors[start:stop]).any()

    def _compare(self, target: str, name: str, start: int, values: Floats) -> None:
        """Note the error of each row, by the checkpoint's numbers of rows."""
        stored = self._stored(target, start, start + len(values))
        if values.ndim > 2:  # the kernels of a convolution
            values = values.reshape(len(values), -1)
        if values.ndim == 1:
            self._note(target, 1, 0, values[None], stored[None])
        else:
            self._note(target, self._weights.shape(name)[0], start, values, stored)

    def _note(self, target: str, rows: int, start: int, values: Floats, stored: Floats) -> None:
        lengths = np.sqrt(np.einsum("ij,ij->i", values, values, dtype=np.float64))
        apart = values - stored
        errors = np.sqrt(np.einsum("ij,ij->i", apart, apart, dtype=np.float64))
        errors /= np.maximum(lengths, SMALL_ROW * np.sqrt(np.mean(lengths**2)) or 1.0)
        with self._lock:
            if target not in self._errors:
                self._errors[target] = np.full(rows, np.nan)
            self._errors[target][start : start + len(errors)] = np.nan_to_num(errors, nan=np.inf)

    def _compare_stack(self, slab: tuple[str, tuple[int, int]]) -> None:
        """Experts are stacked otherwise in a GGUF: compared as the model's source stacks them."""
        target, (start, stop) = slab
        source = self._stacks[target]
        stored = self._file.rows_at(target, np.arange(start, stop))
        self._note(target, row_count(source.shape), start, source.rows(start, stop), stored)

    def _stored(self, target: str, start: int, stop: int) -> Floats:
        """The file's values of the checkpoint's rows [start, stop)."""
        order = self._model.row_order(target)
        places = np.arange(start, stop) if order is None else np.argsort(order)[start:stop]
        first = int(places.min())
        source = self._model.sources[target]
        if isinstance(source, CheckpointTensor) and source.is_vector:
            whole = self._file.rows_at(target, np.arange(self._file.shape(target)[0]))
            rows: Floats = whole.reshape(-1)[places]
        else:
            values = self._file.rows_at(target, np.arange(first, int(places.max()) + 1))
            rows = values[places - first]
        return source.back(rows) if isinstance(source, CheckpointTensor) else rows

    def _problem(self, target: str) -> str | None:
        errors = self._errors[target]
        exact = self._file.type_name(target) in ("F32", "F16", "BF16")
        kind = self._file.type_name(target)
        # On the type's own grid most rows have no error; the others have what the type gives any.
        usual = 0.0 if exact else max(float(np.median(errors)), usual_rounding_error(kind))
        limit = min(MOST, TIMES_MEDIAN * usual + (10 * EXACT if exact else EXACT))
        wrong = np.flatnonzero(errors > limit)
        if not len(wrong):
            return None
        return f"{target}: {len(wrong)} of {len(errors)} rows differ, the first is {wrong[0]}"
