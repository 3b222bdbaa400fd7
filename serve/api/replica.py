"""What a server knows that is one of several behind one proxy (tuneserve.serve.replicas)."""

from __future__ import annotations

import secrets
from dataclasses import dataclass


@dataclass(frozen=True)
class Replica:
    """`number` from 1. `host`: the address that the proxy listens on, which clients know.
    `page_token`: what all replicas' chat pages are given, for the proxy sends a page's calls to any
    of them."""

    number: int
    host: str
    page_token: str

    @property
    def mark(self) -> str:
        """What is in the ids of all that this replica alone keeps, between kind and random part:
        the proxy sends to it what names them."""
        return f"r{self.number}_"


def stored_id(kind: str, replica: Replica | None) -> str:
    """A new id of what is kept in this process: 'resp_…', behind a proxy 'resp_r2_…'."""
    return f"{kind}_{replica.mark if replica else ''}{secrets.token_hex(24)}"
