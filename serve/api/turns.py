"""What a connection has received and has to wait with for its turn: requests that a client sends
before it has the answers to those in front of them (pipelining, RFC 9112, 9.3.2), which are read
and begun one after the other, and bodies in very many chunks."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from uvicorn.protocols.http.flow_control import FlowControl

MOST_AHEAD = 16 << 10
"""Bytes of such requests, above which no more is read of a connection. Below it is: so it is seen
when the client leaves."""
READ_AT_ONCE = 1 << 10
BODY_AT_ONCE = 16 << 10
"""Bytes that the parser is given at a time, of a head and of a body: what follows a request in them
is parsed with it."""
MOST_MARKS = 1000
"""Heads, headers, chunks and ends of requests that are read at a turn: a client may send them all
byte by byte."""


MOST_PUT_OFF = 100
"""Turns that are left to connections that arrive, before one of those that wait goes on."""
_QUIET = 2
"""Turns after which a connection that was there to be taken has been: the first only takes it."""


class Turns:
    """At a turn of the event loop one connection goes on of all that have more to read, or that
    begin a request: many of them hold up nobody who asks for one thing at a time. The loop takes
    one new connection a turn (uvloop), so that turns are short as long as any arrive."""

    def __init__(self) -> None:
        self._waiting: deque[Callable[[], None]] = deque()
        self._quiet = 0
        self._put_off = 0

    def arrived(self) -> None:
        """A new connection was taken."""
        self._quiet = 0

    def wait(self, loop: asyncio.AbstractEventLoop, begin: Callable[[], None]) -> None:
        """`begin` is called at its turn."""
        self._waiting.append(begin)
        if len(self._waiting) == 1:
            loop.call_soon(self._turn, loop)

    def _turn(self, loop: asyncio.AbstractEventLoop) -> None:
        self._quiet += 1
        if self._quiet <= _QUIET and self._put_off < MOST_PUT_OFF:
            self._put_off += 1
            loop.call_soon(self._turn, loop)
            return
        self._put_off = 0
        try:
            self._waiting[0]()
        finally:
            self._waiting.popleft()
            if self._waiting:
                loop.call_soon(self._turn, loop)


class HeldFlow(FlowControl):
    """uvicorn's, of which reading can be held, whatever a request that runs asks for."""

    _held = False

    def hold(self) -> None:
        self._held = True
        self.pause_reading()

    def release(self) -> None:
        self._held = False
        self.resume_reading()

    def resume_reading(self) -> None:
        if not self._held:
            super().resume_reading()
