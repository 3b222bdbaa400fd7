"""What ends a server that can't go on: a step of the engine that hangs, or all of the process.

A process that answers nothing and still listens is worse than one that has ended: a supervisor
(systemd, Docker, Kubernetes) starts the latter again.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
import time
from collections.abc import Callable

from tuneserve.console import say
from tuneserve.serve.engine import Engine

LAST_WORDS_SECONDS = 3.0
"""From the moment that /ready says 503 to the end of the process."""
EXIT_STALLED = 1


class Watchdog:
    """Call `look` a few times a second, from the event loop's thread.

    If a step takes longer than it may (`Engine.stalled`), it says so and ends the process. If it
    isn't called for `seconds` itself, since something holds the interpreter, the kernel ends the
    process (SIGALRM), and what every thread is at is written to stderr.
    """

    def __init__(
        self, engine: Engine, *, seconds: float, end: Callable[[], None] | None = None
    ) -> None:
        self._engine = engine
        self._seconds = seconds
        self._end = end or _end_process
        self._since: float | None = None
        self._armed = False

    def look(self) -> None:
        """All is well, or the process ends."""
        self._alarm(self._seconds)
        if not self._engine.stalled:
            self._since = None
            return
        now = time.monotonic()
        if self._since is None:
            self._since = now
            say(
                f"error: a step of the engine has not ended within {self._engine.step_limit:.0f} s "
                "(step_seconds): nothing is answered any more"
            )
        elif now - self._since >= LAST_WORDS_SECONDS:
            say("error: the step hangs; the process ends, so that it can be started again")
            self._end()

    def allow(self, seconds: float) -> None:
        """`look` is not called any more; the process has so long to end."""
        self._alarm(seconds)

    def close(self) -> None:
        """Watch no more."""
        self._alarm(0.0)

    def _alarm(self, seconds: float) -> None:
        if not self._armed and seconds:
            self._armed = True
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            # Python's own handlers need the interpreter, which may be what is held.
            faulthandler.register(signal.SIGALRM, file=2, chain=True)
        signal.setitimer(signal.ITIMER_REAL, seconds)


def _end_process() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(EXIT_STALLED)
