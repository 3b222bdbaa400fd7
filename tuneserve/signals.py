"""Signals that end a process: as errors that clean up on their way out, or as what asks a server to
stop."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_EXIT_CODE = 128 + signal.SIGTERM


@contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """Let SIGTERM raise SystemExit while the block runs, so that temporary files are removed as
    after an error. Signals come to the main thread alone: in another one nothing changes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(_: int, frame: FrameType | None) -> None:
        sys.exit(_EXIT_CODE)

    previous = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


@contextmanager
def asked_to_stop(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Call the handler, while the block runs, at each signal that asks a server to stop: SIGINT,
    SIGTERM, and SIGHUP, which comes as the terminal closes, where it is not ignored (nohup). A
    SIGHUP after another one asks for no haste: a shell repeats the system's."""
    asked = False

    def ask(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if number == signal.SIGHUP:
            _leave_closed_terminal()
            if asked:
                return
        asked = True
        handler(number, frame)

    handled = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        handled.append(signal.SIGHUP)
    former = {number: signal.signal(number, ask) for number in handled}
    try:
        yield
    finally:
        for number, before in former.items():
            signal.signal(number, before)


def _leave_closed_terminal() -> None:
    """Where stdout or stderr is a terminal that is gone, let what is said further go nowhere: it
    would be an error, in the midst of the answers that get to end."""
    for descriptor in (1, 2):
        try:
            os.write(descriptor, b"")
        except OSError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, descriptor)
            os.close(nowhere)
