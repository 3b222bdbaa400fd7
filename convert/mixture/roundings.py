"""How far each type rounds a tensor, and how much of the tune's change it keeps.

Errors are squares weighted by the importance matrix (1 where it has none): the expected squared
error of a product with an input, summed over the rows. What is kept of a change is measured as in
convert/verify/update.py, unweighted: a few columns that are large for every token would hide that
the others lose it. Both are estimated from rows spread over the tensor.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from tuneserve.arrays import Floats
from tuneserve.convert.gguf.writer import RowSource, as_float16, encoded_rows
from tuneserve.convert.slabs import one_blas_thread, row_count
from tuneserve.llama import ggml

SAMPLED_VALUES = 64 * 1024  # of a tensor, in SPANS places
SPANS = 16


@dataclass(frozen=True)
class Rounding:
    """What a type does to a tensor: its squared error, and the share of the change it keeps (1
    where the tensor has none)."""

    error: float
    kept: float = 1.0


@dataclass(frozen=True)
class TensorRoundings:
    """Roundings by type; `change`: the tune's change, as an error would be weighed."""

    types: Mapping[str, Rounding]
    change: float = 0.0


def measure_roundings(
    sources: Mapping[str, RowSource],
    types: Mapping[str, Sequence[str]],
    importance: Mapping[str, Floats],
    before: Mapping[str, RowSource],
    *,
    threads: int,
) -> dict[str, TensorRoundings]:
    """Of each tensor in `types`, what each of its types does to it. `before`: the tensors that the
    tune changes, as they were."""

    def of(name: str) -> TensorRoundings:
        return _measure(sources[name], types[name], importance.get(name), before.get(name))

    with one_blas_thread(), ThreadPoolExecutor(threads) as pool:
        return dict(zip(types, pool.map(of, types), strict=True))


def _measure(
    source: RowSource, types: Sequence[str], importance: Floats | None, before: RowSource | None
) -> TensorRoundings:
    errors, kept = dict.fromkeys(types, 0.0), dict.fromkeys(types, 0.0)
    columns = source.shape[-1]
    # Of a stack of matrices, each has its own importance.
    height = source.shape[-2]
    sampled, size, weighted_size = 0, 0.0, 0.0
    for start, stop in _spans(source.shape):
        values = _float16_rows(source, start, stop)
        sampled += stop - start
        weights: Floats = np.ones(1, np.float32) if importance is None else importance
        if weights.ndim == 2:
            weights = weights[np.arange(start, stop) // height]
        if before is not None:
            change = values - _float16_rows(before, start, stop)
            size += float((change * change).sum(dtype=np.float64))
            weighted_size += float((change * change * weights).sum(dtype=np.float64))
        for kind in types:
            data = encoded_rows(source, kind, start, stop, importance)
            rounded = ggml.dequantize(data, kind, columns).reshape(-1, columns)
            gap = values - rounded
            errors[kind] += float((gap * gap * weights).sum(dtype=np.float64))
            if before is not None:
                data = encoded_rows(before, kind, start, stop, importance)
                moved = rounded - ggml.dequantize(data, kind, columns).reshape(-1, columns)
                kept[kind] += float((moved * change).sum(dtype=np.float64))
    scale = row_count(source.shape) / sampled
    found = {
        kind: Rounding(error * scale, kept[kind] / size if size else 1.0)
        for kind, error in errors.items()
    }
    return TensorRoundings(found, weighted_size * scale)


def _float16_rows(source: RowSource, start: int, stop: int) -> Floats:
    rows = as_float16(source.rows(start, stop)).astype(np.float32)
    return rows.reshape(-1, source.shape[-1])


def _spans(shape: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    rows = row_count(shape)
    step = max(1, SAMPLED_VALUES // SPANS // shape[-1])
    if step * SPANS >= rows:
        yield 0, rows
        return
    for start in np.linspace(0, rows - step, SPANS, dtype=int).tolist():
        yield start, start + step
