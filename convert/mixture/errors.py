"""How far each type rounds a tensor's weights: squared error, weighted by the importance matrix."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from tuneserve.arrays import Floats
from tuneserve.convert.gguf.writer import RowSource, as_float16, encoded_rows
from tuneserve.convert.slabs import one_blas_thread, row_count
from tuneserve.llama import ggml

SAMPLED_VALUES = 48 * 1024  # of a tensor, in SPANS places
SPANS = 16


def rounding_errors(
    sources: Mapping[str, RowSource],
    types: Mapping[str, Sequence[str]],
    importance: Mapping[str, Floats],
    *,
    threads: int,
) -> dict[str, dict[str, float]]:
    """Of each tensor in `types` and each of its types: the expected squared error of a product with
    an input, summed over the rows (what the importance matrix weighs; 1 where it has none).
    Estimated from rows spread over the tensor."""

    def of(name: str) -> dict[str, float]:
        return _errors(sources[name], types[name], importance.get(name))

    with one_blas_thread(), ThreadPoolExecutor(threads) as pool:
        return dict(zip(types, pool.map(of, types), strict=True))


def _errors(source: RowSource, types: Sequence[str], importance: Floats | None) -> dict[str, float]:
    errors = dict.fromkeys(types, 0.0)
    columns = source.shape[-1]
    # Of a stack of matrices, each has its own importance.
    height = source.shape[-2]
    sampled = 0
    for start, stop in _spans(source.shape):
        values = as_float16(source.rows(start, stop)).astype(np.float32).reshape(-1, columns)
        sampled += stop - start
        weights = importance
        if importance is not None and importance.ndim == 2:
            weights = importance[np.arange(start, stop) // height]
        for kind in types:
            data = encoded_rows(source, kind, start, stop, importance)
            gap = values - ggml.dequantize(data, kind, columns)
            squares = gap * gap if weights is None else gap * gap * weights
            errors[kind] += float(squares.sum(dtype=np.float64))
    return {kind: error * row_count(source.shape) / sampled for kind, error in errors.items()}


def _spans(shape: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    rows = row_count(shape)
    step = max(1, SAMPLED_VALUES // SPANS // shape[-1])
    if step * SPANS >= rows:
        yield 0, rows
        return
    for start in np.linspace(0, rows - step, SPANS, dtype=int).tolist():
        yield start, start + step
