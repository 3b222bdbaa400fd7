"""How a connection is read: how long it may keep the server waiting, and how much of a request's
head is read. All of it holds before a request is one, so before any key is asked for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import httptools
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from tuneserve.serve.api.errors import ApiError, to_json
from tuneserve.serve.api.open_connections import ConnectionLimits, Connections
from tuneserve.serve.api.turns import (
    BODY_AT_ONCE,
    MOST_AHEAD,
    MOST_MARKS,
    READ_AT_ONCE,
    HeldFlow,
)

LOOKING = frozenset({"GET", "HEAD", "OPTIONS"})
LINGER_SECONDS = 1.0
MOST_DROPPED = 1 << 20
"""Bytes that are read for nothing of a refused request: a connection that is closed while its
client sends is reset, and the client never reads why."""


class Refusal(NamedTuple):
    """What is answered to a request that is not read further."""

    status: int
    message: str
    code: str


BAD = Refusal(400, "This is no HTTP request.", "invalid_request")
TOO_MANY = Refusal(503, "Too many connections are open.", "unavailable")


class GuardedProtocol(HttpToolsProtocol):
    """uvicorn's HTTP protocol with limits."""

    limits: ConnectionLimits
    open_connections: Connections
    flow: HeldFlow
    _refusal: Refusal | None = None
    _lingering = False
    _dropped = 0
    _head_bytes = 0
    _header_count = 0
    _unfinished = 0
    """Bytes since the parser has last come to the end of something: it keeps them all."""
    _marks = 0
    """What the parser has come to the end of, at this turn."""
    _is_due = False
    """Has the request in front been answered, so that the next can begin?"""
    _has_turn = False
    _declined = False
    """Is a request read again, without the protocol that it offers?"""
    _slow: asyncio.TimerHandle | None = None
    """Runs while the client sends no head, or a part of one."""
    _unread: asyncio.TimerHandle | None = None
    """Runs while the client does not read."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.open_connections.turns.arrived()
        self.flow = HeldFlow(transport)
        self._ahead = (
            bytearray()
        )  # requests that are not parsed before the one in front is answered
        if self.open_connections.enter(self, self.client[0] if self.client else ""):
            self._watch()
        else:
            self._answer(TOO_MANY)

    def connection_lost(self, exc: Exception | None) -> None:
        self._unwatch()
        self._stop_unread()
        self.open_connections.leave(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._lingering:
            self._dropped += len(data)
            if self._dropped > MOST_DROPPED:
                self.transport.abort()
            return
        self._unset_keepalive_if_required()
        if self._ahead:
            self._keep(data)
        else:
            self._read(data)

    def _read(self, data: bytes) -> None:
        """Parse requests until there is one to answer; keep the rest."""
        start = self._marks = 0
        while start < len(data):
            if self._has_request:
                self._keep(data[start:])
                break
            size = BODY_AT_ONCE if self._in_body else READ_AT_ONCE
            piece = data[start : start + size]
            start += len(piece)
            try:
                self._parse(piece)
            except httptools.HttpParserUpgrade as offer:
                self._read_as_it_is(piece[offer.args[0] :] + data[start:])
                return
            except httptools.HttpParserError:
                self._answer(self._refusal or BAD)
                return
            if self._marks > MOST_MARKS and start < len(data) and not self._has_request:
                self._keep(data[start:])
                self._wait_for_turn()
                break
        self._watch()

    def _parse(self, piece: bytes) -> None:
        before = self._marks
        self.parser.feed_data(piece)
        self._unfinished = 0 if self._marks > before else self._unfinished + len(piece)
        if self._unfinished > self.limits.max_header_bytes:
            raise self._refused(_too_long(self.limits))

    @property
    def _has_request(self) -> bool:
        """Is there a request, read to its end, that is not answered yet?"""
        return self._is_answering and not self.cycle.more_body

    @property
    def _in_body(self) -> bool:
        return self._is_answering and self.cycle.more_body

    @property
    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _keep(self, data: bytes) -> None:
        self._ahead += data
        if len(self._ahead) > MOST_AHEAD:
            self.flow.hold()

    def _wait_for_turn(self) -> None:
        if not self._has_turn:
            self._has_turn = True
            self.open_connections.turns.wait(self.loop, self._go_on)

    def _go_on(self) -> None:
        """The turn has come of what this connection's client has sent ahead."""
        self._has_turn = False
        if self.transport.is_closing():
            return
        is_due, self._is_due = self._is_due, False
        if is_due and self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
            if self._ahead and not self._has_request:
                self._wait_for_turn()
            return
        ahead = bytes(self._ahead)
        self._ahead.clear()
        self._read(ahead)
        if len(self._ahead) <= MOST_AHEAD:
            self.flow.release()
        if not self._is_answering and not self._lingering:
            self.open_connections.waits(self)

    def _read_as_it_is(self, rest: bytes) -> None:
        """Read a request that offers another protocol (HTTP/2, as Java's clients do; WebSocket),
        which is not taken, without the offer: the parser takes what follows the head for the other
        protocol's."""
        if self._declined:
            self._answer(BAD)  # CONNECT: it is made for nothing else.
            return
        lines = [b"%b %b HTTP/1.1\r\n" % (self.parser.get_method(), self.url)]
        for name, value in self.headers:
            if name not in (b"upgrade", b"connection", b"http2-settings"):
                lines.append(b"%b: %b\r\n" % (name, value))
        self._declined = True
        self.parser = httptools.HttpRequestParser(self)
        self.data_received(b"".join([*lines, b"\r\n", rest]))
        self._declined = False

    def _refused(self, refusal: Refusal) -> httptools.HttpParserError:
        """What ends the parser, and remembers why."""
        self._refusal = refusal
        return httptools.HttpParserError(refusal.message)

    # What the parser tells.

    def on_message_begin(self) -> None:
        self._marks += 1
        self._head_bytes = self._header_count = 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        most = self.limits.max_url
        if len(self.url) > most:
            message = f"The URL has more than {most} bytes."
            raise self._refused(Refusal(414, message, "url_too_long"))

    def on_header(self, name: bytes, value: bytes) -> None:
        """Of a request's head, and of what may follow its body."""
        self._marks += 1
        self._header_count += 1
        self._head_bytes += len(name) + len(value) + 4
        if self._head_bytes > self.limits.max_header_bytes:
            raise self._refused(_too_long(self.limits))
        if self._header_count > self.limits.max_headers:
            message = f"There are more than {self.limits.max_headers} headers."
            raise self._refused(Refusal(431, message, "headers_too_large"))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._marks += 1
        if self.parser.should_upgrade():
            return
        if not self.url.startswith((b"/", b"*")):
            self._take_host_of_target()
        super().on_headers_complete()

    def _take_host_of_target(self) -> None:
        """The request line has a whole URL, as proxies get it: its host counts, not the header's
        (RFC 9112, 3.2.2)."""
        target = httptools.parse_url(self.url)
        host = target.host or b""
        if b":" in host:
            host = b"[" + host.strip(b"[]") + b"]"
        if target.userinfo:
            host = target.userinfo + b"@" + host
        if target.port:
            host += b":%d" % target.port
        given = [place for place, (name, _) in enumerate(self.headers) if name == b"host"]
        for place in given:
            self.headers[place] = (b"host", host)
        if not given:
            self.headers.append((b"host", host))

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        """One request that computes something begins at a turn of the event loop: many that come
        at once don't make those wait that only look (/health)."""
        begin = partial(super()._start_asgi_task, cycle, app)
        if cycle.scope["method"] in LOOKING:
            begin()
        else:
            self.open_connections.turns.wait(self.loop, begin)

    def on_chunk_header(self) -> None:
        self._marks += 1

    def on_body(self, body: bytes) -> None:
        self._marks += 1
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._marks += 1
        if self.parser.should_upgrade():
            return
        self._declined = False
        super().on_message_complete()
        if not self.cycle.response_complete:
            self.open_connections.works(self)

    def on_response_complete(self) -> None:
        if (self.pipeline or self._ahead) and not self.transport.is_closing():
            self.server_state.total_requests += 1
            self._is_due = True
            self._wait_for_turn()
            return
        super().on_response_complete()
        self.open_connections.waits(self)

    # Answers that no application gives.

    def _answer(self, refusal: Refusal) -> None:
        self._unwatch()
        self._lingering = True
        if refusal is not TOO_MANY:
            self.open_connections.refused("bad request" if refusal is BAD else refusal.code)
        if self.cycle is not None and not self.cycle.response_complete:
            # An answer is on its way: nothing else can be said in its midst.
            self.transport.abort()
            return
        body = to_json(ApiError(refusal.status, refusal.message, code=refusal.code).body)
        self.transport.write(
            b"HTTP/1.1 %d \r\ncontent-type: application/json\r\ncontent-length: %d\r\n"
            b"connection: close\r\n\r\n%b" % (refusal.status, len(body), body)
        )
        self.loop.call_later(LINGER_SECONDS, self.transport.close)

    # Time.

    def _watch(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            self._unwatch()
        elif self._slow is None:
            self._slow = self.loop.call_later(self.limits.receive_seconds, self._too_slow)

    def _unwatch(self) -> None:
        if self._slow is not None:
            self._slow.cancel()
            self._slow = None

    def _too_slow(self) -> None:
        self.open_connections.refused("slow")
        self.transport.close()

    def pause_writing(self) -> None:
        super().pause_writing()
        self.open_connections.waits(self)
        if self._unread is None:
            self._unread = self.loop.call_later(self.limits.send_seconds, self._leave_unread)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stop_unread()
        if self.cycle is not None and not (self.cycle.response_complete or self.cycle.more_body):
            self.open_connections.works(self)

    def _leave_unread(self) -> None:
        self.open_connections.refused("unread")
        self.transport.abort()

    def _stop_unread(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None


def _too_long(limits: ConnectionLimits) -> Refusal:
    message = f"The request's headers have more than {limits.max_header_bytes} bytes."
    return Refusal(431, message, "headers_too_large")


def guarded_protocol(
    limits: ConnectionLimits, refused: Callable[[str], None]
) -> type[GuardedProtocol]:
    """The protocol of one server; `refused` is told the reason of each connection that is cut or
    not taken."""
    connections = Connections(limits, refused)

    class Limited(GuardedProtocol):
        pass

    Limited.limits = limits
    Limited.open_connections = connections
    return Limited
