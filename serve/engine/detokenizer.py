"""From token bytes to text, a step at a time: whole characters only, stop strings never shown."""

from __future__ import annotations

import codecs
from collections.abc import Sequence

from tuneserve.chat.thinking import overlap


class Detokenizer:
    """An answer's text as its tokens arrive, up to the first of several stop strings.

    Text that may yet turn out to begin a stop string is held back.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._stops = [stop for stop in stops if stop]
        self._held = ""
        self._parts: list[str] = []
        self.stopped_by: str | None = None
        self.shown = 0
        """Characters of `text`."""

    @property
    def text(self) -> str:
        """All that may be shown so far."""
        return "".join(self._parts)

    @property
    def read(self) -> int:
        """Characters that the tokens so far have, those held back included."""
        return self.shown + len(self._held)

    def feed(self, piece: bytes, *, final: bool = False) -> tuple[str, bool]:
        """Add a token's bytes; returns (new text to show, whether a stop string was met)."""
        held = self._held + self._decoder.decode(piece, final)
        places = [(place, stop) for stop in self._stops if (place := held.find(stop)) >= 0]
        if places:
            place, self.stopped_by = min(places)
            shown, self._held = held[:place], ""
        else:
            keep = 0 if final else max((overlap(held, stop) for stop in self._stops), default=0)
            cut = len(held) - keep
            shown, self._held = held[:cut], held[cut:]
        self._parts.append(shown)
        self.shown += len(shown)
        return shown, bool(places)

    def finish(self) -> str:
        """The rest at the end of an answer that no stop string ended, but for a character that the
        end has cut."""
        self._decoder.reset()
        return self.feed(b"", final=True)[0]
