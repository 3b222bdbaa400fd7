"""The processes that render chat templates, as this process sees them: a few, started once.

A template is code from a model file. In the process that serves or trains it could take all time
and memory, and hold the interpreter so that no signal is answered. A rendering takes about 0.1 ms
longer here; many in one call take that once.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator, Sequence
from typing import Any

from tuneserve.chat.render_process import (
    LONGEST_REASON,
    OUTCOMES,
    Outcome,
    as_json,
    frame,
    from_json,
)
from tuneserve.child import Worker, ending, own_module
from tuneserve.errors import TuneserveError

COMPILE_SECONDS = 3.0
"""Processor time to compile a template; the longest ones in use take 0.1 s."""
RENDER_SECONDS = 1.0
SECONDS_PER_MIB = 2.0
"""Processor time that a rendering may take, and more for each MiB that it is given."""

LONGEST_TEXT = 4 << 20
LONGER_THAN_GIVEN = 8
"""Characters that a template may write, and more for each byte that it is given."""

TOGETHER_BYTES = 1 << 20
"""Of the variables of several renderings."""

MOST_PROCESSES = 4
WAIT_SECONDS = 5.0
"""For a process that is free."""
_STALLED_FACTOR, _STALLED_SECONDS = 4.0, 30.0
"""Wall-clock time: a busy machine gives a process less than a processor."""
_MOST_TEMPLATES = 64
_ENVIRONMENT = (
    "PATH", "PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH", "TZ", "LANG", "LC_ALL", "LC_TIME",
)  # fmt: skip


class RenderersBusyError(TuneserveError):
    """All processes that render are busy with other conversations."""


class RenderLimitError(Exception):
    """A template took more time or memory than it may, or its process ended."""


class _Process(Worker):
    """One process, which knows some templates."""

    def __init__(self, module: str) -> None:
        super().__init__(
            # The thread that starts it may end before it; it ends with its stdin.
            own_module(module, with_parent=False),
            env={name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
            cwd="/", silent=True,
        )  # fmt: skip
        self._numbers: dict[str, int] = {}

    def can_take(self, source: str) -> bool:
        """Does it know this template, or has it room for another?"""
        return source in self._numbers or len(self._numbers) < _MOST_TEMPLATES

    def render(self, source: str, each: Sequence[bytes]) -> list[Outcome]:
        """Raises RenderLimitError; then end it."""
        calls, count = b"[" + b",".join(each) + b"]", len(each)
        seconds = RENDER_SECONDS + SECONDS_PER_MIB * len(calls) / (1 << 20)
        longest = LONGEST_TEXT + LONGER_THAN_GIVEN * len(calls)
        new = ""
        request: dict[str, Any] = {"seconds": seconds, "longest": longest}
        if source not in self._numbers:
            self._numbers[source] = len(self._numbers)
            request |= {"source": source, "compile_seconds": COMPILE_SECONDS}
            new = f"{COMPILE_SECONDS:.3g} s to be compiled or "
        request["template"] = self._numbers[source]
        # JSON writes a character as six at most, UTF-8 as four bytes.
        most = 24 * (longest + LONGEST_REASON) * count + 100

        def is_whole(received: bytearray) -> bool:
            length = int.from_bytes(received[:4])
            if length > most:
                raise RenderLimitError("writes too much")
            return len(received) >= 4 + length

        patience = _STALLED_SECONDS + _STALLED_FACTOR * (COMPILE_SECONDS + count * seconds)
        asked = frame(as_json(request)) + frame(calls)
        try:
            return _checked(self.ask(asked, is_whole, seconds=patience)[4:], count)
        except (TimeoutError, EOFError):
            code = self.end()
        if code == -signal.SIGVTALRM:
            raise RenderLimitError(f"takes longer than {COMPILE_SECONDS:.3g} s to be compiled")
        if code == -signal.SIGPROF:
            raise RenderLimitError(f"takes longer than {seconds:.3g} s for a conversation")
        if code == -signal.SIGKILL:  # of time that passed, on a machine that was busy or not
            raise RenderLimitError(f"takes longer than {new}{seconds:.3g} s for a conversation")
        raise RenderLimitError(f"ends the process that renders it ({ending(code)})")


def _checked(data: bytes, count: int) -> list[Outcome]:
    """The outcomes, which come from a process that ran foreign code."""
    try:
        found = from_json(data)
        outcomes = [(kind, text) for kind, text in found]
    except (ValueError, TypeError, RecursionError):
        raise RenderLimitError("ends the process that renders it") from None
    good = all(kind in OUTCOMES and isinstance(text, str) for kind, text in outcomes)
    if len(outcomes) != count or not good:
        raise RenderLimitError("ends the process that renders it")
    return outcomes


class Renderers:
    """The processes of one module, which calls `render_process.main`: those that are free, the last
    used one first. A process is started when it is needed: it takes 0.2 s."""

    def __init__(self, module: str) -> None:
        self._module = module
        self._begin()
        # A copy of this process must not speak to its processes.
        os.register_at_fork(after_in_child=self._begin)

    def _begin(self) -> None:
        self._places = threading.BoundedSemaphore(min(MOST_PROCESSES, os.cpu_count() or 1))
        self._lock = threading.Lock()
        self._free: list[_Process] = []

    def render(self, source: str, calls: Sequence[bytes]) -> list[Outcome]:
        """What a template makes of each call's variables, a JSON object: (one of OUTCOMES, text).

        Raises RenderLimitError where it takes too much time, and RenderersBusyError.
        """
        outcomes: list[Outcome] = []
        for group in _groups(calls):
            outcomes += self._render(source, group)
        return outcomes

    def _render(self, source: str, calls: Sequence[bytes]) -> list[Outcome]:
        if not self._places.acquire(timeout=WAIT_SECONDS):
            raise RenderersBusyError(
                "other conversations take the chat template long", hint="Try again in a moment."
            )
        try:
            process = self._take(source)
            try:
                outcomes = process.render(source, calls)
            except BaseException:
                process.end()
                raise
            if any(kind == "memory" for kind, _ in outcomes):
                process.end()
            else:
                with self._lock:
                    self._free.append(process)
            return outcomes
        finally:
            self._places.release()

    def _take(self, source: str) -> _Process:
        with self._lock:
            process = self._free.pop() if self._free else None
        if process is not None and not process.can_take(source):
            process.end()
            process = None
        return process or _Process(self._module)


def _groups(calls: Sequence[bytes]) -> Iterator[list[bytes]]:
    """Neighbours of TOGETHER_BYTES together, or one alone."""
    group: list[bytes] = []
    size = 0
    for call in calls:
        if group and size + len(call) > TOGETHER_BYTES:
            yield group
            group, size = [], 0
        group.append(call)
        size += len(call)
    if group:
        yield group


RENDERERS = Renderers("tuneserve.chat.render_process")
"""Those of this package's own sandbox."""
