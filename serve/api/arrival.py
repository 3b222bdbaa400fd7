"""How requests arrive: within a time limit, and as JSON also where the header does not say so."""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from tuneserve.serve.api.errors import ApiError

MIB = 1024 * 1024
NOT_SAID = frozenset({"", "application/x-www-form-urlencoded", "text/plain"})
"""Content types of bodies whose sender said nothing of them: curl's default is a form's."""


class Arrival:
    """ASGI middleware: 408 for a body that takes longer than `seconds`, or for each further MiB;
    a body without a type is taken as JSON.

    A web page may send such a body to any address without being allowed to; browsers then name
    the page's origin, and the type has to be said: 415.
    """

    def __init__(self, app: ASGIApp, *, seconds: float) -> None:
        self._app = app
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        headers = MutableHeaders(scope=scope)
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind in NOT_SAID and "origin" in headers:
            error = ApiError(
                415,
                "The content type is not said: send the header Content-Type: application/json.",
                code="unsupported_media_type",
            )
            await error.response()(scope, receive, send)
            return
        if kind in NOT_SAID:
            headers["content-type"] = "application/json"
        await self._app(scope, in_time(receive, self._seconds), send)


def in_time(receive: Receive, seconds: float) -> Receive:
    """`receive` that raises ApiError (408) for a body that takes longer, or for each further
    MiB."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    more, left = True, MIB

    async def received() -> Message:
        nonlocal more, left, deadline
        if not more:
            # What comes behind the body is the client's leaving, whenever that is.
            return await receive()
        try:
            async with asyncio.timeout_at(deadline):
                message = await receive()
        except TimeoutError:
            raise ApiError(
                408,
                f"The request's body does not arrive: less than 1 MiB in {seconds:g} s.",
                code="request_timeout",
                headers={"Connection": "close"},
            ) from None
        more = bool(message.get("more_body"))
        left -= len(message.get("body", b""))
        if left <= 0:
            left, deadline = MIB, loop.time() + seconds
        return message

    return received


def timed_protocol(seconds: float) -> type[asyncio.Protocol]:
    """uvicorn's HTTP protocol with a limit on the time that a request's headers get: a connection
    that has sent none, or a part of them, for so long is closed."""
    base: Any = AutoHTTPProtocol

    class TimedProtocol(base):  # type: ignore[misc]
        """A connection that is closed if it keeps the server waiting."""

        waiting: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:
            super().connection_made(transport)
            self._watch()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._watch()

        def connection_lost(self, error: Exception | None) -> None:
            self._unwatch()
            super().connection_lost(error)

        def _watch(self) -> None:
            if self.cycle is not None and not self.cycle.response_complete:
                self._unwatch()
            elif self.waiting is None:
                self.waiting = self.loop.call_later(seconds, self.transport.close)

        def _unwatch(self) -> None:
            if self.waiting is not None:
                self.waiting.cancel()
                self.waiting = None

    return TimedProtocol
