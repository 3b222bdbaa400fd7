"""Hosts and web origins as HTTP's headers write them (RFC 3986, RFC 6454)."""

from __future__ import annotations

import ipaddress
import re
from functools import lru_cache
from typing import NamedTuple, Self

ANY = "*"
"""Entry of a list of hosts or origins that stands for all of them."""
OPAQUE = "null"
"""Origin of a page that has none of its own: a file, a sandboxed frame."""
UNSPECIFIED = frozenset({"0.0.0.0", "::"})  # noqa: S104 - compared only
"""What a server listens on that takes all of the machine's addresses."""
DEFAULT_PORTS = {"http": 80, "https": 443}
_HOST = re.compile(r"(\[[0-9A-Za-z:.%_~-]{2,100}\]|[0-9A-Za-z._-]{1,254})(?::([0-9]{0,5}))?")
_ORIGIN = re.compile(r"([a-z][a-z0-9+.-]{0,31})://(.{1,300})")


class Host(NamedTuple):
    """A name or an IP address with a port: the name in lower case without a dot at its end, an
    address in its shortest form, without a zone. `port` None: the scheme's own."""

    name: str
    port: int | None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises ValueError for what names no host, as `user@host` or an empty text."""
        found = _HOST.fullmatch(text)
        if found is None:
            raise ValueError("not a host: write name, name:port, or [IPv6]:port")
        written, port = found.groups()
        if port and int(port) > 65535:
            raise ValueError("a port is at most 65535")
        bracketed = written.startswith("[")
        name = written.strip("[]").lower()
        address = _address(name)
        if bracketed != (address is not None and ":" in name):
            raise ValueError("an IPv6 address, and nothing else, stands in brackets")
        if address is None:
            name = name.removesuffix(".")
            if not all(name.split(".")):
                raise ValueError("a name has no empty part")
        return cls(str(address or name), int(port) if port else None)

    @property
    def is_loopback(self) -> bool:
        """Can it be nothing but this machine, whatever a name server says?"""
        address = _address(self.name)
        return self.name == "localhost" if address is None else address.is_loopback

    @property
    def is_address(self) -> bool:
        """Is it an IP address, not a name?"""
        return _address(self.name) is not None

    def port_of(self, scheme: str) -> int | None:
        return DEFAULT_PORTS.get(scheme) if self.port is None else self.port


class Origin(NamedTuple):
    """Where a web page comes from."""

    scheme: str
    host: Host

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises ValueError for what is no origin, as `null` or an address with a path."""
        found = _ORIGIN.fullmatch(text)
        if found is None:
            raise ValueError("not an origin: write scheme://host or scheme://host:port")
        return cls(found[1], Host.parse(found[2]))


def address_name(address: str) -> str:
    """The name that `Host` has of an address or a name, such as a socket's own."""
    return str(_address(address) or address.lower())


@lru_cache(512)
def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


class HostPattern(NamedTuple):
    """An allowed host: all of them (`*`), those below a domain (`*.example.com`), or one; with a
    port, that port alone."""

    host: Host
    below: bool

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises ValueError."""
        if text == ANY:
            return cls(Host("", None), True)
        below = text.startswith("*.")
        return cls(Host.parse(text.removeprefix("*.")), below)

    def allows(self, host: Host) -> bool:
        return self.names(host.name) and self.host.port in (None, host.port)

    def is_origin(self, origin: Origin) -> bool:
        """Is it a page of this host's own? One at another port is another's; `*` says of no host
        that it is this server's."""
        own = self.host.port_of(origin.scheme)
        return (
            bool(self.host.name)
            and origin.scheme in DEFAULT_PORTS
            and self.names(origin.host.name)
            and own == origin.host.port_of(origin.scheme)
        )

    def names(self, name: str) -> bool:
        if not self.below:
            return name == self.host.name
        return not self.host.name or name.endswith("." + self.host.name)


@lru_cache(512)
def host_of(header: bytes) -> Host | None:
    """The host that a header's value names; None if it names none."""
    try:
        return Host.parse(header.decode("ascii"))
    except ValueError:
        return None


@lru_cache(512)
def origin_of(header: bytes) -> Origin | None:
    """The origin that a header's value names; None if it names none, as `null`."""
    try:
        return Origin.parse(header.decode("ascii"))
    except ValueError:
        return None
