"""A request id for every request, and a line in the log: for people, or JSON for machines."""

from __future__ import annotations

import asyncio
import hmac
import secrets
import time
from collections.abc import Container, Mapping, Sequence
from datetime import datetime
from http import HTTPStatus
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tuneserve.console import say
from tuneserve.errors import UsageError
from tuneserve.files import check_regular, read_text
from tuneserve.json_log import write_entry
from tuneserve.serve.api.errors import CLIENT_LEFT, ApiError, as_api_error
from tuneserve.serve.api.metrics import Metrics
from tuneserve.serve.engine import Completion, UnavailableError

FACTS = "tuneserve.facts"
"""Key in the ASGI scope: under it the app stores the facts that the access log writes of a request
(model, token counts, times)."""

REQUEST_ID = "tuneserve.request_id"
"""Key in the ASGI scope of the request's id, as X-Request-Id tells it."""
FROM_INSIDE = "tuneserve.inside"
"""Key in the ASGI scope of requests that the server itself makes; no key is asked of them."""
ADMITTED = "tuneserve.admitted"
"""Key in the ASGI scope of requests whose client may use the server: it gave its key where there
are keys."""

DEFECT = 500


def note(scope: Any, **facts: Any) -> None:
    """Remember facts of a request for its log line."""
    scope.setdefault(FACTS, {}).update(facts)


def note_completions(scope: Any, completions: Sequence[Completion]) -> None:
    """Token counts, times and how the answers ended."""
    if not completions:
        return
    first = min(one.timings.queue + one.timings.prompt for one in completions)
    note(
        scope,
        prompt_tokens=sum(one.prompt_tokens for one in completions),
        cached_tokens=sum(one.cached_tokens for one in completions),
        tokens=sum(len(one.tokens) for one in completions),
        first_token_seconds=round(first, 3),
        finish=",".join(sorted({one.finish_reason for one in completions})),
    )


class AccessLog:
    """ASGI middleware, the outermost: X-Request-Id, the log and the request counter; and what a
    client is told of a defect, since that is to be in the log as well."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        style: Literal["line", "json", "off"],
        metrics: Metrics,
        untold: Container[str] = (),
    ) -> None:
        """`untold`: paths that are not logged when all is well."""
        self._app = app
        self._style = style
        self._untold = untold
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = f"req-{secrets.token_hex(8)}"
        status = CLIENT_LEFT
        answering = False
        started = time.monotonic()

        async def with_id(message: Message) -> None:
            nonlocal status, answering
            if message["type"] == "http.response.start":
                status = message["status"]
                answering = True
                message.setdefault("headers", [])
                MutableHeaders(scope=message).append("X-Request-Id", request_id)
            await send(message)

        scope.setdefault(FACTS, {})
        scope[REQUEST_ID] = request_id
        # HEAD is GET without the body, which the server leaves out by the method it has seen.
        inner = {**scope, "method": "GET"} if scope.get("method") == "HEAD" else scope
        try:
            await self._app(inner, receive, with_id)
        except Exception as error:
            if answering:
                status = DEFECT
                raise
            await as_api_error(error).response()(scope, receive, with_id)
        except asyncio.CancelledError:
            # The server ends without waiting for the answer.
            if not answering:
                ended = as_api_error(UnavailableError("the server is shutting down"))
                await ended.response()(scope, receive, with_id)
        finally:
            scope.setdefault("route", inner.get("route"))
            self._write(scope, request_id, status, time.monotonic() - started)

    def _write(self, scope: Scope, request_id: str, status: int, seconds: float) -> None:
        route = scope.get("route")
        self._metrics.requested(getattr(route, "path", "unknown"), status)
        if status == HTTPStatus.OK and scope["path"] in self._untold:
            return
        if self._style == "json":
            write_entry(_entry(scope, request_id, status, seconds))
        elif self._style == "line":
            say(_as_line(scope, request_id, status, seconds))


def _as_line(scope: Scope, request_id: str, status: int, seconds: float) -> str:
    facts = scope[FACTS]
    tokens = ""
    if "tokens" in facts:
        tokens = (
            f"  {facts['prompt_tokens']} prompt ({facts['cached_tokens']} cached)"
            f" + {facts['tokens']} tokens, first {facts['first_token_seconds']:.2f} s,"
            f" {facts['finish']}"
        )
    for key in ("ignored", "unenforced", "inactive"):
        tokens += f"  {key} {facts[key]}" if key in facts else ""
    now = datetime.now().strftime("%H:%M:%S")
    return f"{now} {scope['method']} {_path(scope)} {status} {seconds:.2f} s{tokens}  {request_id}"


def _entry(scope: Scope, request_id: str, status: int, seconds: float) -> dict[str, Any]:
    client = scope.get("client")
    return {
        "request_id": request_id,
        "client": client[0] if client else None,
        "method": scope["method"],
        "path": _path(scope),
        "status": status,
        "seconds": round(seconds, 3),
        **scope[FACTS],
    }


def _path(scope: Scope) -> str:
    """The path without what could forge a second line of the log."""
    path: str = scope["path"]
    return path.encode("ascii", "backslashreplace").decode() if path.isprintable() else repr(path)


FAVICON_PATH = "/favicon.ico"
OPEN_PATHS = frozenset({"/", FAVICON_PATH, "/health", "/ready"})
"""Answered without a key: liveness is asked by machinery that has none, and the page asks for
the key itself."""


def read_keys(path: Path | None) -> tuple[bytes, ...]:
    """The keys of a key file: one a line; blank lines and lines with # first are skipped."""
    if path is None:
        return ()
    check_regular(path)
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


def key_in(headers: Mapping[bytes, bytes]) -> bytes:
    """The key as OpenAI's clients send it, or else as Anthropic's or Azure's do; b'' if none."""
    scheme, _, given = headers.get(b"authorization", b"").partition(b" ")
    if scheme.lower() == b"bearer":
        return given.strip()
    return headers.get(b"x-api-key", headers.get(b"api-key", b"")).strip()


class Guard:
    """ASGI middleware: 401 without a known key (if there are any), 413 for too long a body.
    `special` are methods and paths that have keys of their own, `larger` paths with another
    `max_body`."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        keys: KeyRing,
        max_body: int,
        special: Mapping[tuple[str, str], KeyRing] = MappingProxyType({}),
        larger: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        self._app = app
        self._keys = keys
        self._max_body = max_body
        self._special = special
        self._larger = larger

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope.get(FROM_INSIDE):
            await self._app(scope, receive, send)
            return
        headers = {name.lower(): value for name, value in scope["headers"]}
        try:
            keys = self._special.get((scope["method"], scope["path"]), self._keys)
            # A browser asks with OPTIONS, and without the key, whether it may send the key.
            is_open = scope["path"] in OPEN_PATHS or scope["method"] == "OPTIONS"
            if not is_open:
                self._check_key(headers, keys)
            scope[ADMITTED] = not (is_open and keys.needed)
            most = self._larger.get(scope["path"], self._max_body)
            self._check_length(headers.get(b"content-length", b"0"), most)
        except ApiError as error:
            await error.response()(scope, receive, send)
            return
        await self._app(scope, self._counted(receive, most), send)

    def _check_key(self, headers: Mapping[bytes, bytes], keys: KeyRing) -> None:
        if keys.needed and not keys.accepts(key_in(headers)):
            kind = "API" if keys is self._keys else "admin"
            raise ApiError(
                401,
                f"A valid {kind} key is needed: Authorization: Bearer KEY (or X-Api-Key: KEY).",
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )

    def _check_length(self, content_length: bytes, most: int) -> None:
        if content_length.isdigit() and int(content_length) > most:
            raise _too_long(most)

    def _counted(self, receive: Receive, most: int) -> Receive:
        """`receive` that refuses a body without a length once it has grown too long."""
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > most:
                raise _too_long(most)
            return message

        return counted


def _too_long(most: int) -> ApiError:
    return ApiError(413, f"The request body is larger than {most} bytes.", code="request_too_large")
