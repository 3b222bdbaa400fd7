"""The background's share: it stands still while others are there, but not for ever."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

from tuneserve.serve.engine.request import Request, TimeFunction

PATIENCE_SECONDS = 5.0
"""How long all of the background stands still before one of it goes on among the others."""


class Patience:
    """Is over when nothing of the background has gone on for PATIENCE_SECONDS."""

    def __init__(self, clock: TimeFunction) -> None:
        self._clock = clock
        self._since = clock()

    @property
    def is_over(self) -> bool:
        return self._clock() - self._since >= PATIENCE_SECONDS

    def begin(self) -> None:
        """The background goes on, or is empty."""
        self._since = self._clock()


class BackgroundShare:
    """Lets one background request at a time take part like any other (`Request.promoted`) until it
    ends, each time that the background has stood still for PATIENCE_SECONDS."""

    def __init__(self, clock: TimeFunction) -> None:
        self._patience = Patience(clock)
        self._promoted: Request | None = None

    def newly_promoted(
        self, running: Sequence[Request], waiting: Sequence[Request]
    ) -> Request | None:
        """The request that is promoted now, the oldest of the background; None: no other than
        before."""
        there = [*chain(running, waiting)]
        behind = [one for one in there if one.background]
        if self._promoted is not None and (
            self._promoted not in behind or len(behind) == len(there)
        ):
            self._promoted.promoted = False
            self._promoted = None
        if self._promoted is not None or not behind or len(behind) == len(there):
            self._patience.begin()
            return None
        if not self._patience.is_over:
            return None
        self._promoted = behind[0]
        self._promoted.promoted = True
        return self._promoted
