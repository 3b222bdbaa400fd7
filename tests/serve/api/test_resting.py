"""The thread that rests after what it computed."""

from __future__ import annotations

import ctypes
import itertools
import os
import time
from pathlib import Path

import pytest

from tuneserve.serve.api import freed_memory
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


def resident() -> int:
    """MB of this process's memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") // 1_000_000


def pieces() -> list[bytes]:
    """200 MB in pieces that the C library hands out one by one."""
    return [bytes(2000) for _ in range(100_000)]


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="this is no glibc")
def test_what_was_freed_is_given_back_to_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(freed_memory, "DELAYS", (0.5, 0.5))
    with RestingThread("test") as thread:
        made = thread.submit(pieces).result()
        full = resident()
        made = made[::500]  # between them all is free
        deadline = time.monotonic() + 10
        while resident() > full - 150:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    assert len(made) == 200
