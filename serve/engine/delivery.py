"""When the engine's listeners hear of tokens and ends."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from tuneserve.serve.engine.request import Request
from tuneserve.serve.engine.types import EngineError, FinishReason

TOGETHER_SECONDS = 0.02
"""Tokens that follow each other faster than this are delivered together: waking the listener for
each would take time, and no reader notices the difference."""


class Delivery:
    """Keeps what a step has drawn until the engine has time to `hand_out`, in its thread.

    `after_step` is called behind it: at once if something urgent was handed out since the last call
    (a first token, an end), else every TOGETHER_SECONDS at most.
    """

    def __init__(self, after_step: Callable[[], None] | None) -> None:
        self.urgent = False
        """Is `after_step` to be called at the next `hand_out`, whatever time has passed?"""
        self._after_step = after_step
        self._last = 0.0
        self._grown: deque[Request] = deque()
        self._ended: deque[tuple[Request, FinishReason | EngineError]] = deque()

    def grown(self, request: Request) -> None:
        """The answer has new tokens."""
        if request.streams:
            self._grown.append(request)

    def ended(self, request: Request, why: FinishReason | EngineError) -> None:
        """The answer has come to its end."""
        self._ended.append((request, why))
        self.urgent = True

    def hand_out(self) -> None:
        """Deliver everything. What a listener raises is raised, and nothing is delivered twice."""
        while self._grown:
            self._grown.popleft().deliver()
        while self._ended:
            request, why = self._ended.popleft()
            request.finish(why)
        now = time.monotonic()
        if self.urgent or now - self._last >= TOGETHER_SECONDS:
            self._last = now
            self.urgent = False
            if self._after_step is not None:
                self._after_step()
