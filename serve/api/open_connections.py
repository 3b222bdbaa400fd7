"""The connections that a server has open: how many, of whom, and which gives way to a new one."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from dataclasses import dataclass, field

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from tuneserve.serve.api.turns import Turns


@dataclass(frozen=True)
class ConnectionLimits:
    """What the settings of the same names say."""

    max_url: int
    max_header_bytes: int
    max_headers: int
    receive_seconds: float
    send_seconds: float
    max_connections: int
    max_client_connections: int


@dataclass
class _Client:
    """The connections of one address. Those for which the server waits stand in `waiting`, the one
    that has kept it waiting longest first."""

    open: int = 0
    waiting: dict[HttpToolsProtocol, None] = field(default_factory=dict)


class Connections:
    """The open connections of a server. Where there are as many as may be, one for which the server
    waits gives way to a new one: a client that asks is never kept out by those that hold
    connections open for nothing."""

    def __init__(self, limits: ConnectionLimits, refused: Callable[[str], None]) -> None:
        """`refused` is told the reason of each connection that is cut or not taken."""
        self._limits = limits
        self.refused = refused
        self.turns = Turns()
        self._clients: dict[str, _Client] = {}
        self._of: dict[HttpToolsProtocol, str] = {}
        self._waiting: dict[HttpToolsProtocol, None] = {}

    def __len__(self) -> int:
        return len(self._of)

    def enter(self, connection: HttpToolsProtocol, address: str) -> bool:
        """Returns whether the connection is taken."""
        key = network_of(address)
        client = self._clients.get(key) or _Client()
        for count, most, waiting in (
            (client.open, self._limits.max_client_connections, client.waiting),
            (len(self._of), self._limits.max_connections, self._waiting),
        ):
            if count < most:
                continue
            longest = next(iter(waiting), None)
            if longest is None:
                self.refused("connections")
                return False
            self.refused("idle")
            self.leave(longest)
            longest.transport.abort()
        self._clients[key] = client
        client.open += 1
        self._of[connection] = key
        self.waits(connection)
        return True

    def waits(self, connection: HttpToolsProtocol) -> None:
        """From now on the server waits for this connection's client."""
        if (key := self._of.get(connection)) is not None:
            for waiting in (self._waiting, self._clients[key].waiting):
                waiting.pop(connection, None)
                waiting[connection] = None

    def works(self, connection: HttpToolsProtocol) -> None:
        """From now on it is the client who waits."""
        if (key := self._of.get(connection)) is not None:
            self._waiting.pop(connection, None)
            self._clients[key].waiting.pop(connection, None)

    def leave(self, connection: HttpToolsProtocol) -> None:
        """The connection has ended, or is about to."""
        self.works(connection)
        if (key := self._of.pop(connection, None)) is not None:
            client = self._clients[key]
            client.open -= 1
            if not client.open:
                del self._clients[key]


def network_of(address: str) -> str:
    """What counts as one client: an IPv4 address, or the /64 that one has in IPv6."""
    try:
        known = ipaddress.IPv6Address(address.partition("%")[0])
    except ValueError:
        return address
    return str(known.ipv4_mapped or known.exploded[:19])
