"""What a client reads of a server that it does not trust: replies with bounds, and how they end.

The openai client takes an event into memory whatever its length, and takes a stream that was cut
for one that ended.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from tuneserve.errors import TuneserveError

MOST_BYTES = 16 << 20
"""Of a reply that is no stream."""
MOST_EVENT_BYTES = 1 << 20
"""Of an event in a stream, or of what comes before its first."""
_EVENT_END = re.compile(rb"\r\r|\n\n|\r\n\r\n")
_DONE = re.compile(rb"(?:^|[\r\n])data: ?\[DONE\]")
# As long as what either may begin with in the piece before.
_TAIL = 16


def http_library() -> Any:
    """What the openai client speaks through: newer releases httpx2, older ones httpx."""
    try:
        import httpx2 as http  # type: ignore[import-not-found, unused-ignore]
    except ModuleNotFoundError:
        import httpx as http  # type: ignore[no-redef, unused-ignore]
    return http


class Replies:
    """Watches the replies of an HTTP client; `done`: the last one said that it was at its end."""

    def __init__(self) -> None:
        self.done = False

    def client(self, **options: Any) -> Any:
        """An HTTP client for openai, whose replies are watched."""
        import openai

        # What is compressed is small before, and anything after.
        headers = {"Accept-Encoding": "identity"}
        hooks = {"response": [self.watch]}
        return openai.DefaultHttpxClient(headers=headers, event_hooks=hooks, **options)

    def watch(self, response: Any) -> None:
        """Bound a reply that is about to be read. Its stream raises TuneserveError beyond that."""
        self.done = False
        where = str(response.request.url)
        if response.headers.get("content-encoding", "identity") != "identity":
            raise TuneserveError("the server's reply is compressed, unasked", where=where)
        events = response.headers.get("content-type", "").startswith("text/event-stream")
        stream, watched = response.stream, self._events if events else _bounded

        class Watched(http_library().SyncByteStream):  # type: ignore[misc, unused-ignore]
            def __iter__(self) -> Iterator[bytes]:
                return watched(stream, where)

            def close(self) -> None:
                stream.close()

        response.stream = Watched()

    def _events(self, stream: Any, where: str) -> Iterator[bytes]:
        length, tail = 0, b""
        for piece in stream:
            seen = tail + piece
            self.done = self.done or _DONE.search(seen) is not None
            ends = [found.end() for found in _EVENT_END.finditer(seen)]
            length = len(seen) - ends[-1] if ends else length + len(piece)
            if length > MOST_EVENT_BYTES:
                raise _too_long(f"an event of more than {MOST_EVENT_BYTES >> 20} MiB", where)
            tail = seen[-_TAIL:]
            yield piece


def _bounded(stream: Any, where: str) -> Iterator[bytes]:
    left = MOST_BYTES
    for piece in stream:
        left -= len(piece)
        if left < 0:
            raise _too_long(f"more than {MOST_BYTES >> 20} MiB", where)
        yield piece


def _too_long(what: str, where: str) -> TuneserveError:
    return TuneserveError(f"the server's reply has no end: {what}", where=where)
