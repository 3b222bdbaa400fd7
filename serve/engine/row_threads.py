"""Threads over the rows of a step: NumPy lets go of the interpreter while it reads a row."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

MOST_THREADS = 4
"""The part of the work that needs the interpreter leaves nothing to more."""

WORTH_A_THREAD = 1 << 20
"""Logits that keep a thread busy for longer than it takes to wake it."""


class RowThreads:
    """Calls a function for each group of a step's rows, in at most `threads` threads, the caller's
    being one. Close it."""

    def __init__(self, threads: int) -> None:
        self._others = min(threads, MOST_THREADS) - 1
        self._pool = ThreadPoolExecutor(self._others, "sampling") if self._others > 0 else None

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown()

    def map(
        self, function: Callable[[Item], Result], items: Sequence[Item], *, logits: int
    ) -> list[Result]:
        """The results in the order of the items, which have that many `logits` together. The
        calls must not depend on each other. Raises what a call raises, when all have ended."""
        helpers = min(self._others, len(items) - 1, logits // WORTH_A_THREAD)
        if self._pool is None or helpers <= 0:
            return [function(item) for item in items]
        results: dict[int, Result] = {}
        left = deque(enumerate(items))

        def work() -> None:
            while left:
                try:
                    index, item = left.popleft()
                except IndexError:  # another thread has taken the last one
                    return
                results[index] = function(item)

        futures = [self._pool.submit(work) for _ in range(helpers)]
        try:
            work()
        finally:
            errors = [error for future in futures if (error := future.exception()) is not None]
        for error in errors:
            raise error
        return [results[index] for index in range(len(items))]
