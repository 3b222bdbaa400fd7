"""What every request passes before the app sees it: its size and its key."""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from pathlib import Path

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.errors import ApiError
from tuneserve.errors import UsageError

OPEN_PATHS = frozenset({"/health"})
"""Answered without a key: liveness is asked by machinery that has none."""


def read_keys(path: Path | None) -> tuple[bytes, ...]:
    """The keys of a key file: one a line; blank lines and lines with # first are skipped."""
    if path is None:
        return ()
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise UsageError("no such file", where=str(path)) from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"can't be read: {error}", where=str(path)) from error
    keys = [line.strip() for line in lines]
    keys = [key for key in keys if key and not key.startswith("#")]
    if not keys:
        raise UsageError(
            "holds no API key", where=str(path), hint="Write one key per line, or leave it out."
        )
    return tuple(key.encode() for key in keys)


class Guard:
    """ASGI middleware: 401 without a known key (if there are any), 413 for too long a body."""

    def __init__(self, app: ASGIApp, *, keys: Sequence[bytes], max_body: int) -> None:
        self._app = app
        self._keys = tuple(keys)
        self._max_body = max_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name.lower(): value for name, value in scope["headers"]}
        try:
            if scope["path"] not in OPEN_PATHS:
                self._check_key(headers.get(b"authorization", b""))
            self._check_length(headers.get(b"content-length", b"0"))
        except ApiError as error:
            await error.response()(scope, receive, send)
            return
        await self._app(scope, self._counted(receive), send)

    def _check_key(self, authorization: bytes) -> None:
        if not self._keys:
            return
        scheme, _, given = authorization.partition(b" ")
        # Every key is compared, and in constant time, so that timing tells nothing.
        known = [hmac.compare_digest(given.strip(), key) for key in self._keys]
        if scheme.lower() != b"bearer" or not any(known):
            raise ApiError(
                401,
                "A valid API key is needed: Authorization: Bearer KEY.",
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )

    def _check_length(self, content_length: bytes) -> None:
        if content_length.isdigit() and int(content_length) > self._max_body:
            raise self._too_long()

    def _counted(self, receive: Receive) -> Receive:
        """`receive` that refuses a body without a length once it has grown too long."""
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._max_body:
                raise self._too_long()
            return message

        return counted

    def _too_long(self) -> ApiError:
        return ApiError(
            413,
            f"The request body is larger than {self._max_body} bytes.",
            code="request_too_large",
        )
