"""What the engine has delivered of answers and their connections have not taken yet. A client that
does not read fills first the buffers of its connection, and then this."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from weakref import WeakSet

from tuneserve.serve.engine import Completion, Delta, EngineError, Event, TokenLogprob

Batch = list[tuple[int, Event]]
"""(choice, event) pairs in the order of delivery."""

TAKEN_BYTES = 64 << 10
"""Taken at a time, roughly: what is written lies in a connection's buffer until it is read."""
_LOOKED_AT_EVERY = 64 << 10
_EVENT_BYTES, _LOGPROB_BYTES, _ALTERNATIVE_BYTES = 300, 150, 120
"""Memory that Python's objects take, roughly."""


class UnreadError(EngineError):
    """A client has not read its answer while it grew, and there is no more room for it."""


class Mailboxes:
    """The mailboxes of a server. Where they hold more than `most_bytes` together, the answers in
    the fullest end. Belongs to the event loop."""

    def __init__(self, most_bytes: int) -> None:
        self._most = most_bytes
        self._all: WeakSet[Mailbox] = WeakSet()

    def new(self, *, stream: bool) -> Mailbox:
        """Of a stream, or of answers that come whole: these wait for nobody."""
        if not stream:
            return Mailbox()
        mailbox = Mailbox(self._make_room)
        self._all.add(mailbox)
        return mailbox

    def _make_room(self) -> None:
        while sum(one.size for one in self._all) > self._most:
            fullest = max(self._all, key=lambda one: one.size)
            fullest.cut(
                f"the client has not read its answer, of which {fullest.size >> 10} KiB wait, while"
                f" unread answers fill {self._most >> 20} MiB (max_unread)"
            )


class Mailbox:
    """The events of one request. `make_room` is called now and then while they become more."""

    def __init__(self, make_room: Callable[[], None] | None = None) -> None:
        self.size = 0
        """Bytes of memory, roughly, of what has not been taken."""
        self._make_room = make_room
        self._next_look = _LOOKED_AT_EVERY
        self._events: deque[tuple[int, Event]] = deque()
        self._there = asyncio.Event()
        self._is_cut = False

    def put(self, index: int, event: Event) -> None:
        """Deliver an event of a choice."""
        if self._is_cut:
            return
        self._events.append((index, event))
        self._there.set()
        self.size += _size_of(event)
        if self._make_room is not None and self.size > self._next_look:
            self._next_look = self.size + _LOOKED_AT_EVERY
            self._make_room()

    def cut(self, why: str) -> None:
        """Drop what was not taken; an UnreadError is all that comes still."""
        self._events.clear()
        self._events.append((0, UnreadError(why)))
        self.size = 0
        self._is_cut = True
        self._there.set()

    async def take(self) -> Batch:
        """The next events, one at least."""
        await self._there.wait()
        taken: Batch = []
        left = TAKEN_BYTES
        while self._events and left > 0:
            taken.append(self._events.popleft())
            size = _size_of(taken[-1][1])
            left -= size
            self.size = max(0, self.size - size)
        self._next_look = self.size + _LOOKED_AT_EVERY
        if not self._events:
            self._there.clear()
        return taken


def _size_of(event: Event) -> int:
    if not isinstance(event, Delta | Completion):
        return _EVENT_BYTES
    return _EVENT_BYTES + len(event.text) + sum(map(_size_of_logprob, event.logprobs))


def _size_of_logprob(one: TokenLogprob) -> int:
    return _LOGPROB_BYTES + _ALTERNATIVE_BYTES * len(one.top)
