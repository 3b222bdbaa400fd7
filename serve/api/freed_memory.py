"""Memory that huge bodies took, and that is free again, given back to the system.

glibc keeps what was freed between pieces that are still in use: after 48 bodies of 1.2 million
token ids 500 MB instead of 255. To give it back takes some hundredths of a second.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Sequence

DELAYS = (5.0, 60.0, 600.0)
"""Seconds after the last huge body, and after each time before: its request may still run."""


class FreedMemory:
    """Gives it back some time after it was asked to, and nobody has asked again."""

    def __init__(self) -> None:
        # Other C libraries have no such function, and keep less.
        self._trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None

    def give_back_later(self) -> None:
        if self._trim is not None:
            with self._lock:
                self._wait(DELAYS)

    def close(self) -> None:
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

    def _wait(self, delays: Sequence[float]) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = threading.Timer(delays[0], self._give_back, [delays[1:]])
        self._timer.daemon = True
        self._timer.start()

    def _give_back(self, delays: Sequence[float]) -> None:
        assert self._trim is not None
        self._trim(0)
        with self._lock:
            if delays and self._timer is threading.current_thread():
                self._wait(delays)
