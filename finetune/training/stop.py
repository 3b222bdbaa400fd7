"""Ctrl-C during training: it ends after a whole step, and what was done is saved."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from typing import Any

from tuneserve.console import say


class StopSwitch:
    """Turned by Ctrl-C (or SIGTERM): training ends after the step at hand and is saved."""

    def __init__(self) -> None:
        self.pressed = False

    @contextlib.contextmanager
    def armed(self) -> Iterator[None]:
        """Take SIGINT and SIGTERM while the block runs; a second one ends it at once."""

        def press(number: int, _: Any) -> None:
            if self.pressed:
                raise KeyboardInterrupt
            self.pressed = True
            say("stopping after this step (once more: at once, without saving)")

        signals = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.signal(number, press) for number in signals}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
