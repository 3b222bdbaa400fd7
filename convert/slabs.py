"""Slabs: tensors are worked on some rows at a time, the rows spread over threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from math import prod
from typing import TypeVar

SLAB_VALUES = 2 * 1024 * 1024
Slab = TypeVar("Slab")
Made = TypeVar("Made")


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """NumPy's matrix products run in the thread that calls them.

    Without it every worker thread would start as many again, and they wait for each other.
    """
    import numpy as np  # noqa: F401  (its BLAS must be loaded to be limited)
    from threadpoolctl import threadpool_limits

    with threadpool_limits(limits=1, user_api="blas"):
        yield


def row_count(shape: tuple[int, ...]) -> int:
    """Rows of a tensor: all vectors along its last axis; of a vector its elements."""
    return prod(shape[:-1]) if len(shape) > 1 else shape[0]


def row_spans(shape: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    """[start, stop) of a tensor's slabs of about SLAB_VALUES values; a vector is one slab."""
    rows = row_count(shape)
    step = rows if len(shape) == 1 else max(1, SLAB_VALUES // shape[-1])
    for start in range(0, rows, step):
        yield start, min(start + step, rows)


def made_in_order(
    pool: ThreadPoolExecutor, make: Callable[[Slab], Made], slabs: Iterable[Slab], ahead: int
) -> Iterator[Made]:
    """What threads make of the slabs, in order; at most `ahead` of them are in memory."""
    waiting: deque[Future[Made]] = deque()
    try:
        for slab in slabs:
            waiting.append(pool.submit(make, slab))
            if len(waiting) == ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()
