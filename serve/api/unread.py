"""Answers that come before the request's body has: the rest is read and dropped.

Most clients send a whole body before they look for an answer. If the connection is closed while
they do, they meet a reset instead of what they were told (413, 401, …).
"""

from __future__ import annotations

from collections.abc import Mapping

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tuneserve.serve.api.arrival import ArrivingBody
from tuneserve.serve.api.errors import ApiError
from tuneserve.serve.api.middleware import ADMITTED

MOST_DROPPED = 512 << 20
"""Bytes of a body that are read for nothing; of a longer one the connection is closed."""
MOST_OF_STRANGERS = 1 << 20
"""The same of a client that may not use the server."""


class DropUnread:
    """ASGI middleware, the outermost: an answer ends when its request's body has arrived, each MiB
    of which has `seconds`, or MOST_DROPPED of it, MOST_OF_STRANGERS where it was not ADMITTED."""

    def __init__(self, app: ASGIApp, *, seconds: float) -> None:
        self._app = app
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name.lower(): value for name, value in scope["headers"]}
        unread = _length(headers) != 0

        async def received() -> Message:
            nonlocal unread
            message = await receive()
            unread = unread and bool(message.get("more_body"))
            return message

        async def sent(message: Message) -> None:
            nonlocal unread
            if not unread:
                await send(message)
            elif message["type"] == "http.response.start":
                message.setdefault("headers", [])
                # What has not come in time, or has no room, is not waited for once more.
                unread = MutableHeaders(scope=message).get("connection") != "close"
                if not 0 < _length(headers) <= _most(scope) or b"expect" in headers:
                    MutableHeaders(scope=message)["Connection"] = "close"
                await send(message)
            elif message.get("more_body"):
                await send(message)
            else:
                await send({**message, "more_body": True})
                await self._drop(received, _most(scope))
                await send({"type": "http.response.body", "body": b"", "more_body": False})

        await self._app(scope, received, sent)

    async def _drop(self, receive: Receive, most: int) -> None:
        receive = ArrivingBody(receive, self._seconds).receive
        left, more = most, True
        while more and left > 0:
            try:
                message = await receive()
            except ApiError:  # It does not arrive in time.
                return
            left -= len(message.get("body", b""))
            more = bool(message.get("more_body"))


def _most(scope: Scope) -> int:
    """Bytes of a request's body that are read for nothing."""
    return MOST_DROPPED if scope.get(ADMITTED) else MOST_OF_STRANGERS


def _length(headers: Mapping[bytes, bytes]) -> int:
    """Bytes of a request's body; -1: it does not say."""
    if b"transfer-encoding" in headers:
        return -1
    length = headers.get(b"content-length", b"0")
    return int(length) if length.isdigit() else -1
