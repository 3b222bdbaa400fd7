"""Errors as Anthropic's API words them, on its paths and wherever its clients ask.

    {"type": "error", "error": {"type": "invalid_request_error", "message": …}, "request_id": …}

The server makes its errors in one form (tuneserve.serve.api.errors); here they get the other.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any, Literal, NotRequired

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from typing_extensions import TypedDict

from tuneserve.serve.api.errors import as_api_error, to_json
from tuneserve.serve.api.middleware import REQUEST_ID
from tuneserve.serve.engine import UnavailableError

PATH = "/v1/messages"
VERSION_HEADER = "anthropic-version"
OVERLOADED = 529
"""Anthropic's status for a server that can't take the request now; others say 503."""

_TYPES = {
    401: "authentication_error", 403: "permission_error", 404: "not_found_error",
    413: "request_too_large", 429: "rate_limit_error", 503: "overloaded_error",
    529: "overloaded_error",
}  # fmt: skip


class ErrorDetail(TypedDict):
    """What went wrong; `details` has the code that OpenAI's API has."""

    type: str
    message: str
    details: NotRequired[dict[str, Any]]


class ErrorBody(TypedDict):
    """Every answer that is not a success."""

    type: Literal["error"]
    error: ErrorDetail
    request_id: str | None


_WORDS = ("message", "type", "param", "code")


def error_body(status: int, told: Mapping[str, Any], request_id: str | None) -> ErrorBody:
    """What a client is told; `told` is the error as OpenAI's API has it."""
    message = told["message"]
    if told["param"] and told["param"] not in message:
        message = f"{told['param']}: {message}"
    usual = "api_error" if status >= 500 else "invalid_request_error"
    error: ErrorDetail = {"type": _TYPES.get(status, usual), "message": message}
    if told["code"] is not None:
        # Clients find here, for one, that they have to go on without a thread.
        figures = {key: value for key, value in told.items() if key not in _WORDS}
        error["details"] = {"error_code": told["code"], **figures}
    return {"type": "error", "error": error, "request_id": request_id}


def speaks_anthropic(scope: Scope) -> bool:
    """Is the request for a path of Anthropic's API, or by one of its clients?"""
    path: str = scope["path"]
    return path == PATH or path.startswith(f"{PATH}/") or VERSION_HEADER in Headers(scope=scope)


class AnthropicErrors:
    """ASGI middleware, next to the outermost: on Anthropic's requests every error has its form, and
    every answer the header `request-id`."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not speaks_anthropic(scope):
            await self._app(scope, receive, send)
            return
        writing = _Rewriting(send, scope.get(REQUEST_ID))
        try:
            await self._app(scope, receive, writing.send)
        except Exception as error:
            if writing.begun:
                raise
            await as_api_error(error).response()(scope, receive, writing.send)
        except asyncio.CancelledError:
            # The server ends without waiting for the answer.
            if writing.begun:
                raise
            gone = UnavailableError("the server is shutting down")
            await as_api_error(gone).response()(scope, receive, writing.send)


class _Rewriting:
    """Passes an answer on; an error's body once it is whole, in the other form."""

    def __init__(self, send: Send, request_id: str | None) -> None:
        self._send = send
        self._request_id = request_id
        self._start: Message | None = None
        self._body = b""
        self.begun = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.begun = True
            message.setdefault("headers", [])
            if self._request_id is not None:
                MutableHeaders(scope=message)["request-id"] = self._request_id
            kind = MutableHeaders(scope=message).get("content-type", "")
            if message["status"] >= 400 and kind.startswith("application/json"):
                self._start = message
                return
        if self._start is None:
            await self._send(message)
            return
        self._body += message.get("body", b"")
        if not message.get("more_body"):
            await self._send_error(self._start)

    async def _send_error(self, start: Message) -> None:
        status = start["status"]
        told = json.loads(self._body)["error"]
        body = to_json(error_body(status, told, self._request_id))
        start["status"] = OVERLOADED if status == 503 else status
        MutableHeaders(scope=start)["content-length"] = str(len(body))
        await self._send(start)
        await self._send({"type": "http.response.body", "body": body})
