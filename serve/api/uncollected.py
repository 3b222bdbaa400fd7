"""Python's garbage collector, held off while what is to stay is made."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

LONGEST = 300.0
"""Seconds without a moment in which nothing is made, after which all the same is collected."""


class Uncollected:
    """What is made in it is no work for the collector until nothing else is made or waits to be.
    A body of fifty thousand messages is half a million objects, eight such are four million: each
    look at them, of which reading the next takes dozens, keeps the interpreter for a second or two.
    Their counts of references free them without it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._expected = 0
        self._since = 0.0

    def expect(self) -> None:
        """Something is going to be made; `expected_no_more` is to follow."""
        with self._lock:
            if not self._expected:
                self._since = time.monotonic()
            self._expected += 1

    def expected_no_more(self) -> None:
        """It was made, or is not wanted any more."""
        with self._lock:
            self._expected -= 1
            if not self._expected:
                gc.unfreeze()

    @contextmanager
    def making(self) -> Iterator[None]:
        """What is made in the block, by one thread at a time, is not looked at."""
        was_enabled = gc.isenabled()
        gc.disable()
        try:
            yield
        finally:
            self._put_aside()
            if was_enabled:
                gc.enable()

    def _put_aside(self) -> None:
        with self._lock:
            if time.monotonic() - self._since > LONGEST:
                # Others' garbage is put aside too.
                gc.unfreeze()
                gc.collect()
                self._since = time.monotonic()
            gc.freeze()
