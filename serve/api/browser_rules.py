"""What keeps web pages of elsewhere from using this server through their reader's browser.

A page may send requests to any address that its reader's browser reaches. Three things are checked,
none of which a page can forge:

- `Host`: a page whose own name was made to point to this machine (DNS rebinding) is, for the
  browser, of the same origin as this server, but the browser still names it.
- `Origin`: browsers name the page that a request comes from, unless it only asks for something of
  its own origin.
- The page's token: what pages of this server's own address send, other than by GET, has to carry
  what the chat page of this very process was given, which no page of elsewhere can read. One that
  was left open from another program on the same port, or is served beside this one behind a proxy,
  is of the same origin and could read it, but does not use the server by mistake. Where keys are
  asked for, the key says as much.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Sequence
from http import HTTPStatus

from starlette.types import ASGIApp, Receive, Scope, Send

from tuneserve.hosts import ANY, UNSPECIFIED, Host, HostPattern, address_name, host_of, origin_of
from tuneserve.serve.api.errors import ApiError
from tuneserve.serve.api.middleware import FROM_INSIDE

HEALTH = "/health"
"""Answered whatever page asks: it says nothing."""
TOKEN_HEADER = "X-Tuneserve-Page"  # noqa: S105 - a name
_TOKEN_KEY = TOKEN_HEADER.lower().encode()
_READING = frozenset({"GET", "HEAD", "OPTIONS"})
LONGEST_HOST = 300


def new_token() -> str:
    """A token for this process's chat page."""
    return secrets.token_urlsafe(24)


class BrowserRules:
    """ASGI middleware: 400 and 403 for foreign hosts and origins.

    `host` is what the server was told to listen on, `allowed` the further hosts under which it is
    reached, `origins` those of other pages that may call it, as browsers write them. `token` is the
    chat page's; None: keys are asked for instead.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        host: str,
        allowed: Sequence[str],
        origins: Sequence[str],
        token: str | None,
        origins_option: str = "--cors-origins",
        behind_proxy: bool = False,
    ) -> None:
        """`origins_option`: the operator's, as what is refused is told; '' where there is none.
        `behind_proxy`: it is a proxy of this server's own that listens on `host`."""
        self._app = app
        self._origins_option = origins_option
        self._host = address_name(host)
        # Which of the machine's addresses a client has used is not known then. Whoever writes an
        # address asks no name server, which could have lied.
        self._any_address = behind_proxy and self._host in UNSPECIFIED
        self._allowed = [HostPattern.parse(one) for one in allowed]
        self._any_origin = ANY in origins
        self._origins = frozenset(origin.encode() for origin in origins)
        self._token = None if token is None else token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] == "http" and not scope.get(FROM_INSIDE):
            try:
                self._check(scope)
            except ApiError as error:
                await error.response()(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _check(self, scope: Scope) -> None:
        """Raises ApiError."""
        hosts: list[bytes] = []
        origins: list[bytes] = []
        token = b""
        for name, value in scope["headers"]:
            if name == b"host":
                hosts.append(value)
            elif name == b"origin":
                origins.append(value)
            elif name == _TOKEN_KEY:
                token = value
        host = self._checked_host(scope, hosts)
        if not origins or scope["path"] == HEALTH:
            return
        if len(origins) == 1 and (self._any_origin or origins[0] in self._origins):
            return
        if len(origins) > 1 or not self._is_own(origins[0], host, scope["scheme"]):
            shown = origins[0][:LONGEST_HOST].decode("ascii", "replace")
            option = self._origins_option
            allow = f"; its operator can allow them with {option} {shown}" if option else ""
            raise ApiError(
                HTTPStatus.FORBIDDEN,
                f"Pages of {shown} may not call this server{allow}.",
                code="origin_refused",
            )
        if self._token is None or scope["method"] in _READING:
            return
        if not hmac.compare_digest(token, self._token):
            raise ApiError(
                HTTPStatus.FORBIDDEN,
                f"A page of this address needs the token of this server's own page "
                f"({TOKEN_HEADER}): load it again. The operator can allow other pages with "
                "--cors-origins.",
                code="page_token_needed",
            )

    def _checked_host(self, scope: Scope, hosts: Sequence[bytes]) -> Host | None:
        """The host that a request was sent to; None where HTTP/1.0, which no browser speaks, says
        none. Raises ApiError."""
        if not hosts and scope["http_version"] == "1.0":
            return None
        host = host_of(hosts[0]) if len(hosts) == 1 else None
        if host is None:
            raise ApiError(
                HTTPStatus.BAD_REQUEST,
                "The header Host must be there once, and name a host: name, name:port or "
                "[IPv6]:port.",
                code="invalid_host",
            )
        if not (host.is_loopback or self._is_bound(host, scope) or self._is_allowed(host)):
            raise ApiError(
                HTTPStatus.FORBIDDEN,
                f"This server is not known as '{host.name}'; its operator can change that with "
                f"--allowed-hosts {host.name}.",
                code="host_refused",
            )
        return host

    def _is_bound(self, host: Host, scope: Scope) -> bool:
        if host.name == self._host or (self._any_address and host.is_address):
            return True
        server = scope.get("server")
        return server is not None and host.name == address_name(server[0])

    def _is_allowed(self, host: Host) -> bool:
        return any(pattern.allows(host) for pattern in self._allowed)

    def _is_own(self, header: bytes, host: Host | None, scheme: str) -> bool:
        """Is it the origin of this server's own pages? A proxy may have taken TLS off, and may
        have put another host in."""
        origin = origin_of(header)
        if origin is None or origin.scheme not in ("https", scheme):
            return False
        if host is not None and (
            (origin.host.name, origin.host.port_of(origin.scheme))
            == (host.name, host.port_of(origin.scheme))
        ):
            return True
        return any(pattern.is_origin(origin) for pattern in self._allowed)
