"""A request id for every request, and a line in the log: for people, or JSON for machines."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Literal

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tuneserve.console import say
from tuneserve.serve.api.errors import CLIENT_LEFT, as_api_error
from tuneserve.serve.api.metrics import Metrics
from tuneserve.serve.engine import Completion

FACTS = "tuneserve.facts"
"""Key in the ASGI scope: under it the app stores the facts that the access log writes of a request
(model, token counts, times)."""

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
        self, app: ASGIApp, *, style: Literal["line", "json", "off"], metrics: Metrics
    ) -> None:
        self._app = app
        self._style = style
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
                message["headers"] = [
                    *message.get("headers", ()),
                    (b"x-request-id", request_id.encode()),
                ]
            await send(message)

        scope.setdefault(FACTS, {})
        try:
            await self._app(scope, receive, with_id)
        except Exception as error:
            if answering:
                status = DEFECT
                raise
            await as_api_error(error).response()(scope, receive, with_id)
        finally:
            self._write(scope, request_id, status, time.monotonic() - started)

    def _write(self, scope: Scope, request_id: str, status: int, seconds: float) -> None:
        route = scope.get("route")
        self._metrics.requested(getattr(route, "path", "unknown"), status)
        if self._style == "json":
            say(_as_json(scope, request_id, status, seconds))
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
    now = datetime.now().strftime("%H:%M:%S")
    return f"{now} {scope['method']} {_path(scope)} {status} {seconds:.2f} s{tokens}  {request_id}"


def _as_json(scope: Scope, request_id: str, status: int, seconds: float) -> str:
    client = scope.get("client")
    return json.dumps(
        {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "request_id": request_id,
            "client": client[0] if client else None,
            "method": scope["method"],
            "path": _path(scope),
            "status": status,
            "seconds": round(seconds, 3),
            **scope[FACTS],
        },
        ensure_ascii=False,
    )


def _path(scope: Scope) -> str:
    """The path without what could forge a second line of the log."""
    path: str = scope["path"]
    return path.encode("ascii", "backslashreplace").decode() if path.isprintable() else repr(path)
