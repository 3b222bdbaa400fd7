"""Ctrl-C that lets what is under way end, since it is paid for; the second one ends at once."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupts:
    """Ctrl-C while a loop runs in this thread. `came`: it was pressed, so nothing more is begun."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.came = False
        self._loop, self._pressed = loop, asyncio.Event()

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Note the first Ctrl-C of the block; a further one raises KeyboardInterrupt. Where Ctrl-C
        does something else already, or another thread runs this, nothing changes."""
        here = threading.current_thread() is threading.main_thread()
        if not here or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
            yield
            return
        signal.signal(signal.SIGINT, self._note)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    async def pressed(self) -> None:
        """Return once it is pressed."""
        await self._pressed.wait()

    def _note(self, _: int, frame: FrameType | None) -> None:
        if self.came:
            raise KeyboardInterrupt
        self.came = True
        # The loop waits in a call of the system's, which goes on after a signal.
        self._loop.call_soon_threadsafe(self._pressed.set)
