"""From token bytes to text, a step at a time: whole characters only, stop strings never shown."""

from __future__ import annotations

import codecs
from collections.abc import Sequence

from tuneserve.chat.thinking import overlap


class StopMatcher:
    """Watches growing text for any of several strings, even across the pieces it comes in.

    Text that may yet turn out to begin a stop string is held back.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = [stop for stop in stops if stop]
        self._held = ""

    def feed(self, text: str) -> tuple[str, bool]:
        """(text that may be shown now, whether a stop string was met)."""
        if not self._stops:
            return text, False
        self._held += text
        places = [place for stop in self._stops if (place := self._held.find(stop)) >= 0]
        if places:
            shown, self._held = self._held[: min(places)], ""
            return shown, True
        keep = max(overlap(self._held, stop) for stop in self._stops)
        cut = len(self._held) - keep
        shown, self._held = self._held[:cut], self._held[cut:]
        return shown, False

    def flush(self) -> str:
        """The held-back text, once it is known that nothing follows."""
        rest, self._held = self._held, ""
        return rest


class Detokenizer:
    """An answer's text as its tokens arrive: UTF-8 decoding and stop strings together."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._matcher = StopMatcher(stops)
        self._parts: list[str] = []

    @property
    def text(self) -> str:
        """All that may be shown so far."""
        return "".join(self._parts)

    def feed(self, piece: bytes) -> tuple[str, bool]:
        """Add a token's bytes; returns (new text to show, whether a stop string was met)."""
        return self._show(*self._matcher.feed(self._decoder.decode(piece)))

    def finish(self) -> str:
        """The rest at the end of an answer that no stop string ended."""
        shown, stopped = self._matcher.feed(self._decoder.decode(b"", final=True))
        if not stopped:
            shown += self._matcher.flush()
        return self._show(shown, stopped)[0]

    def _show(self, text: str, stopped: bool) -> tuple[str, bool]:
        if text:
            self._parts.append(text)
        return text, stopped
