"""The thread that rests after what it computed."""

from __future__ import annotations

import itertools
import time

import pytest

from tuneserve.serve.api.resting import RESTS, RestingThread

WORK_SECONDS = 0.05


def compute() -> tuple[float, float]:
    """Computes for a while; when it began and ended."""
    began, computed = time.monotonic(), time.thread_time()
    while time.thread_time() - computed < WORK_SECONDS:
        pass
    return began, time.monotonic()


def test_the_next_piece_begins_after_a_rest() -> None:
    with RestingThread("test") as thread:
        pieces = [thread.submit(compute) for _ in range(3)]
        times = [piece.result() for piece in pieces]
    for (_, ended), (began, _) in itertools.pairwise(times):
        assert began - ended >= 0.95 * RESTS * WORK_SECONDS


def test_what_computes_nothing_is_followed_at_once_and_errors_are_the_callers() -> None:
    with RestingThread("test") as thread:
        began = time.monotonic()
        for _ in range(100):
            assert thread.submit(divmod, 7, 3).result() == (2, 1)
        with pytest.raises(ZeroDivisionError):
            thread.submit(divmod, 7, 0).result()
        assert time.monotonic() - began < 2
