"""Requests that this process asks its own application, as a client would."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from starlette.types import ASGIApp, Message

from tuneserve.serve.api.middleware import FROM_INSIDE


@dataclass(slots=True)
class Answer:
    """An HTTP answer, whole."""

    status: int = 0
    request_id: str = ""
    body: bytearray = field(default_factory=bytearray)


async def ask(app: ASGIApp, path: str, body: bytes) -> Answer:
    """POST a JSON body; no key is asked for. Cancelling it is what a client's leaving is."""
    sent = False
    answer = Answer()

    async def receive() -> Message:
        nonlocal sent
        if sent:
            await asyncio.Event().wait()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            answer.status = message["status"]
            headers = {name.lower(): value for name, value in message.get("headers", ())}
            answer.request_id = headers.get(b"x-request-id", b"").decode("latin-1")
        elif message["type"] == "http.response.body":
            answer.body += message.get("body", b"")

    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    scope = {
        "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1",
        "method": "POST", "scheme": "http", "path": path, "raw_path": path.encode(),
        "query_string": b"", "root_path": "", "headers": headers, "client": ("batch", 0),
        "server": ("batch", 0), FROM_INSIDE: True,
    }  # fmt: skip
    await app(scope, receive, send)
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        # The application answers 503 when it is cancelled.
        raise asyncio.CancelledError
    return answer
