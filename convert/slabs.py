"""Slabs: tensors are worked on some rows at a time, the rows spread over threads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from math import prod

STEP_VALUES = 2 * 1024 * 1024


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """NumPy's matrix products run in the thread that calls them.

    Without it every worker thread would start as many again, and they wait for each other.
    """
    import numpy as np  # noqa: F401  (its BLAS must be loaded to be limited)
    from threadpoolctl import threadpool_limits

    with threadpool_limits(limits=1, user_api="blas"):
        yield


def row_steps(shape: tuple[int, ...], values: int = STEP_VALUES) -> Iterator[tuple[int, int]]:
    """(first row, number of rows) of a tensor's slabs of about `values` values."""
    width = prod(shape[1:])
    step = max(1, values // width)
    for start in range(0, shape[0], step):
        yield start, min(step, shape[0] - start)
