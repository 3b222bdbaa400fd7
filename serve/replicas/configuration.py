"""HAProxy's configuration: one template for `serve --replicas` and for deploy/haproxy.cfg."""

from __future__ import annotations

import json
import resource
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from jinja2 import Environment, StrictUndefined

from tuneserve.console import print_text
from tuneserve.serve.api.errors import UNKNOWN_PATH, ApiError
from tuneserve.settings import ServeSettings

TEMPLATE = Path(__file__).with_name("haproxy.cfg.j2")
# In the order in which they are looked at: what of a request is its beginning.
BEGINNINGS = (
    "$.system", "$.instructions", "$.messages[0].content", "$.messages[0].content[0].text",
    "$.prompt", "$.input[0].content", "$.input[0].content[0].text", "$.input",
)  # fmt: skip
# What HAProxy says itself, by status.
ERRORS = {
    400: "The request is no valid HTTP, or its header fields are too long or too many.",
    408: "The request took too long to arrive.",
    500: "The proxy failed on this request.",
    501: "The proxy does not know this method or transfer coding.",
    502: "The replica that answered has ended, or sent what is no answer.",
    503: "No replica takes this request at the moment.",
    504: "The replica has not answered in time.",
}
EARLY_ERRORS = (400, 408)
"""Of what is no HTTP, or no header in time: these HAProxy takes from whole answers in files alone,
and that only since 3.3."""
LARGEST_BUFFER = 1 << 20
"""Bytes of a connection's buffer at most, of which each has two while it is used."""
_HEADERS_ROOM = 16_384
_OWN_HEADERS = 8
_MOST_HEADERS = 32_767  # HAProxy's
# HAProxy closes none that is slow for one that arrives, as a server does: so it has room for more.
_SLOW_ONES = 4
_OWN_FILES, _FILES_EACH = 200, 2


class Server(NamedTuple):
    """A replica, as the proxy knows it."""

    name: str
    address: str


def containers_configuration() -> str:
    """deploy/haproxy.cfg."""
    return _rendered(
        containers=True,
        error_files={},
        servers=[Server(name, f"{name}:8080") for name in ("serve-1", "serve-2")],
        bind=":8080", max_connections=1024, buffer=131_072, max_headers=128, answer_timeout="10m",
        receive_seconds=60, keep_alive_seconds=75,
    )  # fmt: skip


def configuration(
    settings: ServeSettings,
    ports: Sequence[int],
    bind: str,
    error_files: Mapping[int, str] = MappingProxyType({}),
) -> str:
    """For replicas at `ports` of this machine. `bind`: the words of HAProxy's `bind`;
    `error_files`: paths of whole answers, by status."""
    return _rendered(
        containers=False,
        error_files=error_files,
        servers=[Server(f"replica-{n}", f"127.0.0.1:{port}") for n, port in enumerate(ports, 1)],
        bind=bind,
        max_connections=_connections(settings.max_connections),
        max_client_connections=settings.max_client_connections,
        buffer=min(settings.max_body, LARGEST_BUFFER) + settings.max_header_bytes + _HEADERS_ROOM,
        max_headers=min(settings.max_headers + _OWN_HEADERS, _MOST_HEADERS),
        # A replica watches itself, and sends signs of life in a stream.
        answer_timeout="20d",
        receive_seconds=settings.receive_seconds,
        keep_alive_seconds=settings.keep_alive_seconds,
    )


def _connections(wanted: int) -> int:
    """Connections at once: some times as many as are `wanted`, where the system lets a process have
    that many open."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    room = (most - _OWN_FILES) // _FILES_EACH if most != resource.RLIM_INFINITY else wanted << 4
    return max(wanted, min(_SLOW_ONES * wanted, room))


def error_body(status: int, message: str, code: str = "proxy") -> str:
    """An error as JSON, in the form of OpenAI's and Anthropic's at the same time; it stands between
    single quotes."""
    told = {"type": "error", **ApiError(status, message, code=code).body}
    return json.dumps(told, separators=(",", ":")).replace("'", "\\u0027")


def error_response(status: int) -> bytes:
    """One of HAProxy's errors as a whole answer."""
    body = error_body(status, ERRORS[status]).encode()
    head = (
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nContent-Type: application/json\r\n"
        f"Cache-Control: no-cache\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def _rendered(**values: Any) -> str:
    # Nothing of a request is in it, and HAProxy's language is no HTML.
    environment = Environment(  # noqa: S701
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    template = environment.from_string(TEMPLATE.read_text("utf-8"))
    return template.render(
        beginnings=BEGINNINGS, errors=ERRORS, error_body=error_body, unknown_path=UNKNOWN_PATH,
        **values,
    )  # fmt: skip


if __name__ == "__main__":
    print_text(containers_configuration())
