"""What a target is, and what must hold for every input."""

from __future__ import annotations

import resource
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from tuneserve.errors import TuneserveError

SECONDS = 10.0
"""Longest time for one input. Inputs are a few kB."""
MEMORY_BYTES = 512 << 20
"""Most that one input may add to the process's peak."""


class BrokenInvariantError(AssertionError):
    """An input for which what must hold does not."""


@dataclass(frozen=True)
class Target:
    """`check` reads the input as the product does, and raises what is wrong; errors of the kinds
    `allowed` are how the product refuses it. `seeds`: good inputs by name; `words`: what the
    mutator writes into inputs."""

    name: str
    check: Callable[[bytes], None]
    seeds: Callable[[], Mapping[str, bytes]]
    words: tuple[bytes, ...] = ()
    allowed: tuple[type[Exception], ...] = (TuneserveError,)

    def run(self, data: bytes) -> bool:
        """One input; was it accepted? Raises BrokenInvariantError, and lets through whatever else
        comes out that is no refusal."""
        before = _peak_bytes()
        with _time_limit(SECONDS):
            try:
                self.check(data)
            except self.allowed:
                accepted = False
            except OSError as error:
                # What the system refuses (a name that is too long) the command line says.
                if error.errno is None:
                    raise
                accepted = False
            else:
                accepted = True
        if (grown := _peak_bytes() - before) > MEMORY_BYTES:
            raise BrokenInvariantError(f"{len(data)} bytes made the process {grown} bytes larger")
        return accepted


def _peak_bytes() -> int:
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


@contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """Raise BrokenInvariantError in the block after this time, as soon as Python runs again."""

    def late(_: int, frame: FrameType | None) -> None:
        raise BrokenInvariantError(f"took longer than {seconds:g} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def must(holds: bool, what: str) -> None:
    """Raise BrokenInvariantError unless it holds."""
    if not holds:
        raise BrokenInvariantError(what)
