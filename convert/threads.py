"""Threads: the work is spread over rows of tensors, so each row's arithmetic gets one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """NumPy's matrix products run in the thread that calls them.

    Without it every worker thread would start as many again, and they wait for each other.
    """
    import numpy as np  # noqa: F401  (its BLAS must be loaded to be limited)
    from threadpoolctl import threadpool_limits

    with threadpool_limits(limits=1, user_api="blas"):
        yield
