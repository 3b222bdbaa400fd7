"""What every request passes before the app sees it: its size and its key."""

from __future__ import annotations

import hmac
from pathlib import Path

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tuneserve.console import say
from tuneserve.errors import UsageError
from tuneserve.files import read_text
from tuneserve.serve.api.errors import ApiError

OPEN_PATHS = frozenset({"/", "/health", "/ready"})
"""Answered without a key: liveness is asked by machinery that has none, and the page asks for
the key itself."""


def read_keys(path: Path | None) -> tuple[bytes, ...]:
    """The keys of a key file: one a line; blank lines and lines with # first are skipped."""
    if path is None:
        return ()
    keys = [line.strip() for line in read_text(path, "file of API keys").splitlines()]
    keys = [key for key in keys if key and not key.startswith("#")]
    if not keys:
        raise UsageError(
            "holds no API key", where=str(path), hint="Write one key per line, or leave it out."
        )
    return tuple(key.encode() for key in keys)


class KeyRing:
    """The keys of a file, read again when it changes; None: no key is asked for.

    A changed file that can't be read, or holds no key, leaves the former keys in force.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._keys = read_keys(path)
        self._stamp = self._current_stamp()

    @property
    def needed(self) -> bool:
        return self._path is not None

    def accepts(self, given: bytes) -> bool:
        """Is it one of the keys? Every key is compared in constant time, so that the time taken
        tells nothing."""
        self._reload_if_changed()
        known = [hmac.compare_digest(given, key) for key in self._keys]
        return any(known)

    def _reload_if_changed(self) -> None:
        stamp = self._current_stamp()
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._keys = read_keys(self._path)
        except UsageError as error:
            say(f"warning: the API keys stay as they were: {error.render()}")
        else:
            say(f"{len(self._keys)} API keys read again from {self._path}")

    def _current_stamp(self) -> tuple[int, int, int] | None:
        if self._path is None:
            return None
        try:
            status = self._path.stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_size, status.st_ino


class Guard:
    """ASGI middleware: 401 without a known key (if there are any), 413 for too long a body."""

    def __init__(self, app: ASGIApp, *, keys: KeyRing, max_body: int) -> None:
        self._app = app
        self._keys = keys
        self._max_body = max_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name.lower(): value for name, value in scope["headers"]}
        try:
            # A browser asks with OPTIONS, and without the key, whether it may send the key.
            if scope["path"] not in OPEN_PATHS and scope["method"] != "OPTIONS":
                self._check_key(headers.get(b"authorization", b""))
            self._check_length(headers.get(b"content-length", b"0"))
        except ApiError as error:
            await error.response()(scope, receive, send)
            return
        await self._app(scope, self._counted(receive), send)

    def _check_key(self, authorization: bytes) -> None:
        if not self._keys.needed:
            return
        scheme, _, given = authorization.partition(b" ")
        if scheme.lower() != b"bearer" or not self._keys.accepts(given.strip()):
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
