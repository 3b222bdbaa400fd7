"""A thread for work that others have to wait for while it computes."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

from tuneserve.serve.api.freed_memory import FreedMemory
from tuneserve.serve.api.uncollected import Uncollected

RESTS = 3.0
"""Times as long as a piece of work computed."""

P = ParamSpec("P")
T = TypeVar("T")


class RestingThread(ThreadPoolExecutor):
    """Does one piece of work after the other and rests between them. What reads a text of some MB
    in one call keeps the interpreter for a tenth of a second; without rests an answer that is made
    in twenty turns would wait as often. What it took of memory is given back later."""

    def __init__(self, name: str) -> None:
        super().__init__(1, name)
        self._rests_until = 0.0
        self._uncollected = Uncollected()
        self._freed = FreedMemory()

    def submit(self, work: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """As ThreadPoolExecutor."""
        self._uncollected.expect()
        try:
            future = super().submit(self._do, partial(work, *args, **kwargs))
        except BaseException:
            self._uncollected.expected_no_more()
            raise
        future.add_done_callback(self._done)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """As ThreadPoolExecutor."""
        super().shutdown(wait, cancel_futures=cancel_futures)
        self._freed.close()

    def _done(self, _: Future[T]) -> None:
        self._uncollected.expected_no_more()
        self._freed.give_back_later()

    def _do(self, work: Callable[[], T]) -> T:
        time.sleep(max(0.0, self._rests_until - time.monotonic()))
        began = time.thread_time()
        try:
            with self._uncollected.making():
                return work()
        finally:
            self._rests_until = time.monotonic() + RESTS * (time.thread_time() - began)
