"""How the bodies of requests arrive: as JSON, within a time limit, in as much memory as there is
for them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tuneserve.serve.api.errors import ApiError

MIB = 1024 * 1024
SMALL_BODY = 64 * 1024
"""Bytes up to which a body counts for nothing: as much is buffered of each connection anyway."""
JSON_TYPE = "application/json"
UPLOAD_TYPE = "multipart/form-data"
LONGEST_CODING = 40
"""Characters of a coding's name that are repeated."""


class Arrival:
    """ASGI middleware: 415 for a body that is not said to be JSON (of `uploads`, paths that take
    files: a form with files), which web pages may send without asking, or is compressed; 408 for
    one that takes longer than `seconds`, or for each further MiB; 503 for the one that began first
    when all together take more than `most` bytes. Requests that nothing reads (`is_served`) are
    passed on, to be told so."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        seconds: float,
        most: int,
        is_served: Callable[[Scope], bool],
        uploads: Collection[str] = (),
    ) -> None:
        self._app = app
        self._seconds = seconds
        self._bodies = Bodies(most)
        self._is_served = is_served
        self._uploads = frozenset(uploads)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] not in ("POST", "PUT", "PATCH"):
            await self._app(scope, receive, send)
            return
        uploaded = scope["path"] in self._uploads
        refused = _refused_form(scope, UPLOAD_TYPE if uploaded else JSON_TYPE)
        if refused is not None and self._is_served(scope):
            await refused.response()(scope, receive, send)
            return
        body = ArrivingBody(receive, self._seconds)
        if uploaded:  # It is written to disk as it comes.
            await self._app(scope, body.receive, send)
            return
        with self._bodies.holding(body):
            await self._app(scope, body.receive, send)


def _refused_form(scope: Scope, wanted: str) -> ApiError | None:
    """Why a body is not read: it is not of the type `wanted`, or compressed."""
    if not _has_body(scope):
        return None
    if [kind.partition(";")[0].strip() for kind in _values(scope, b"content-type")] != [wanted]:
        return ApiError(
            415,
            f"The body's type must be said: send the header Content-Type: {wanted}.",
            code="unsupported_media_type",
        )
    coding = ", ".join(_values(scope, b"content-encoding"))
    if coding not in ("", "identity"):
        return ApiError(
            415,
            f"A body with Content-Encoding: {coding[:LONGEST_CODING]} is not read: send it as it "
            "is, without this header.",
            code="unsupported_content_encoding",
            headers={"Accept-Encoding": "identity"},
        )
    return None


def _has_body(scope: Scope) -> bool:
    headers = dict(scope["headers"])
    return b"transfer-encoding" in headers or headers.get(b"content-length", b"0") != b"0"


def _values(scope: Scope, header: bytes) -> list[str]:
    """What a header says, in small letters, each time it is there."""
    given = [value for name, value in scope["headers"] if name == header]
    return [one.decode("latin-1").strip().lower() for one in given]


class ArrivingBody:
    """A request's body, each MiB of which has `seconds` to arrive."""

    def __init__(self, receive: Receive, seconds: float) -> None:
        self._receive = receive
        self._seconds = seconds
        self._deadline = asyncio.get_running_loop().time() + seconds
        self._left = MIB
        self._more = True
        self._timeout: asyncio.Timeout | None = None
        self._cut = False
        self.bodies: Bodies | None = None
        self.size = 0
        """Bytes that have come; those of small bodies are not counted by `bodies`."""

    async def receive(self) -> Message:
        """The next message. Raises ApiError."""
        if not self._more:
            # What comes behind the body is the client's leaving, whenever that is.
            return await self._receive()
        if self._cut:
            raise _too_many_bodies()
        try:
            async with asyncio.timeout_at(self._deadline) as self._timeout:
                message = await self._receive()
        except TimeoutError:
            if self._cut:
                raise _too_many_bodies() from None
            raise ApiError(
                408,
                f"The request's body does not arrive: less than 1 MiB in {self._seconds:g} s.",
                code="request_timeout",
                headers={"Connection": "close"},
            ) from None
        finally:
            self._timeout = None
        self._more = bool(message.get("more_body"))
        size = len(message.get("body", b""))
        self._left -= size
        if self._left <= 0:
            self._left = MIB
            self._deadline = asyncio.get_running_loop().time() + self._seconds
        if self.bodies is not None:
            self.bodies.grown(self, size, whole=not self._more)
        return message

    def cut(self) -> None:
        """Take no more of it."""
        self._cut = True
        if self._timeout is not None:
            self._timeout.reschedule(0.0)


class Bodies:
    """The bodies that are arriving, in at most `most` bytes: when there are more, the one that
    began first is cut, so that one that comes at once is not kept out by those that don't."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._held = 0
        self._arriving: dict[ArrivingBody, None] = {}

    @contextmanager
    def holding(self, body: ArrivingBody) -> Iterator[None]:
        """A block in which the body counts until it is whole."""
        body.bodies = self
        try:
            yield
        finally:
            self.forget(body)

    def grown(self, body: ArrivingBody, size: int, *, whole: bool) -> None:
        """The body has grown by `size`."""
        if whole:
            self.forget(body)
            return
        counted = body in self._arriving
        body.size += size
        if counted or body.size > SMALL_BODY:
            self._arriving[body] = None
            self._held += size if counted else body.size
        while self._held > self._most:
            oldest = next(iter(self._arriving))
            self.forget(oldest)
            oldest.cut()

    def forget(self, body: ArrivingBody) -> None:
        """It is whole, or comes no more."""
        if body in self._arriving:
            del self._arriving[body]
            self._held -= body.size
        body.bodies = None


def _too_many_bodies() -> ApiError:
    return ApiError(
        503,
        "Too many large bodies are arriving at once.",
        code="unavailable",
        headers={"Connection": "close", "Retry-After": "1"},
    )
