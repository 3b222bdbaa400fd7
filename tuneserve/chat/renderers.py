"""The processes that render chat templates, as this process sees them: a few, started once.

A template is code from a model file. In the process that serves or trains it could take all time
and memory, and hold the interpreter so that no signal is answered. A rendering takes about 0.1 ms
longer here; many in one call take that once.
"""

from __future__ import annotations

import atexit
import os
import select
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from typing import IO, Any

from tuneserve.chat.render_process import (
    LONGEST_REASON,
    OUTCOMES,
    Outcome,
    as_json,
    frame,
    from_json,
)
from tuneserve.child import own_module
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


class _Process:
    """One process, for one caller at a time. Close it."""

    def __init__(self, module: str) -> None:
        environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
        self._process = subprocess.Popen(
            # The thread that starts it may end before it; it ends with its stdin.
            own_module(module, with_parent=False),
            env=environment, cwd="/",
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._stdin: IO[bytes] = self._process.stdin
        self._stdout: IO[bytes] = self._process.stdout
        self._ready = select.poll()
        self._ready.register(self._stdout, select.POLLIN)
        self._numbers: dict[str, int] = {}

    def can_take(self, source: str) -> bool:
        """Does it know this template, or has it room for another?"""
        return source in self._numbers or len(self._numbers) < _MOST_TEMPLATES

    def render(self, source: str, each: Sequence[bytes]) -> list[Outcome]:
        """Raises RenderLimitError; then close it."""
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
        deadline = time.monotonic() + _STALLED_SECONDS
        deadline += _STALLED_FACTOR * (COMPILE_SECONDS + count * seconds)
        try:
            self._stdin.write(frame(as_json(request)) + frame(calls))
            self._stdin.flush()
            length = int.from_bytes(self._read(4, deadline))
            # JSON writes a character as six at most, UTF-8 as four bytes.
            if length > 24 * (longest + LONGEST_REASON) * count + 100:
                raise RenderLimitError("writes too much")
            return _checked(self._read(length, deadline), count)
        except (BrokenPipeError, EOFError, TimeoutError):
            raise RenderLimitError(
                self._ending(f"{new}{seconds:.3g} s for a conversation")
            ) from None

    def _read(self, length: int, deadline: float) -> bytes:
        """So many bytes. Raises EOFError, TimeoutError."""
        found = bytearray()
        while len(found) < length:
            left = max(0.0, deadline - time.monotonic())
            if not self._ready.poll(1000 * left):
                raise TimeoutError
            piece = os.read(self._stdout.fileno(), length - len(found))
            if not piece:
                raise EOFError
            found += piece
        return bytes(found)

    def _ending(self, allowed: str) -> str:
        self._process.kill()
        code = self._process.wait()
        if code in (-signal.SIGPROF, -signal.SIGKILL):
            return f"takes longer than {allowed}"
        name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return f"ends the process that renders it ({name})"

    def close(self) -> None:
        """It ends by itself when nothing more can come; but not while it renders."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._stdin, self._stdout):
            try:
                pipe.close()
            except BrokenPipeError:  # what it had not read
                continue


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
        atexit.register(self.close)
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
                process.close()
                raise
            if any(kind == "memory" for kind, _ in outcomes):
                process.close()
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
            process.close()
            process = None
        return process or _Process(self._module)

    def close(self) -> None:
        with self._lock:
            processes, self._free = self._free, []
        for process in processes:
            process.close()


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
