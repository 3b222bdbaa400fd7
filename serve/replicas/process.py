"""A supervisor's processes: their lines under their names, and replicas that are started again."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import IO, Any

from tuneserve.child import ending, own_module
from tuneserve.console import say
from tuneserve.errors import TuneserveError, UsageError
from tuneserve.json_log import entry_of, is_json_log, write_entry

SOON_SECONDS = 10.0
"""A replica that ends within so long of being ready has failed at once."""
MOST_FAILURES = 3
WAITS = (0.0, 1.0, 2.0)
"""Seconds before a replica is started again, by how often in a row it has failed at once."""
_SHOWN_LINES = 8


class ToldProcess:
    """A process that ends with this one. What it writes to stderr is told under its name; `lines`
    are the last ones. `answer` is the first line of its stdout."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        stdin: bytes = b"",
        env: Mapping[str, str] | None = None,
        pass_fds: Sequence[int] = (),
    ) -> None:
        self.lines: deque[str] = deque(maxlen=_SHOWN_LINES)
        self.answer: str | None = None
        self._name = name
        # In a group of its own: Ctrl-C reaches the supervisor alone.
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env={**os.environ, **(env or {})}, pass_fds=pass_fds, start_new_session=True,
        )  # fmt: skip
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError), self._process.stdin as pipe:
            pipe.write(stdin)
        self._threads = [
            threading.Thread(target=work, args=(pipe,), daemon=True)
            for work, pipe in (
                (self._tell, self._process.stderr),
                (self._hear, self._process.stdout),
            )
        ]
        for thread in self._threads:
            thread.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def code(self) -> int | None:
        """How it has ended, if it has; then `lines` are whole."""
        code = self._process.poll()
        if code is not None:
            for thread in self._threads:
                thread.join(1.0)
        return code

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def end(self) -> None:
        """Kill it with all that it has started, at once."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def _tell(self, pipe: IO[bytes]) -> None:
        for raw in pipe:
            line = raw.decode("utf-8", "replace").rstrip("\n")
            self.lines.append(message_of(line))
            tell_of(self._name, line)

    def _hear(self, pipe: IO[bytes]) -> None:
        self.answer = pipe.readline().decode("utf-8", "replace") or None
        for _ in pipe:
            pass


def tell_of(name: str, line: str) -> None:
    """A line of a process's log, with its name: in a log of objects as the field 'process'."""
    if not is_json_log():
        say(f"{name}: {line}")
    elif (entry := entry_of(line)) is not None:
        write_entry({"process": name, **entry})
    else:  # HAProxy's, or what a library writes when it ends the process
        write_entry({"process": name, "message": line})


def message_of(line: str) -> str:
    """A line of a process's log as it stands in an error."""
    entry = entry_of(line) or {}
    return str(entry.get("message", line))


class ReplicaProcess:
    """A replica, started again where it ends by itself. `order` is what replica.py reads."""

    def __init__(self, number: int, order: bytes, env: Mapping[str, str]) -> None:
        self._number = number
        self._order = order
        self._env = env
        self._process: ToldProcess | None = None
        self._ready_since: float | None = None
        self._failures = 0
        self._start_at = 0.0
        self._ever_ready = False

    @property
    def name(self) -> str:
        return f"replica {self._number}"

    @property
    def is_ready(self) -> bool:
        return self._ready_since is not None

    @property
    def answer(self) -> dict[str, Any]:
        """What it said when it was ready."""
        assert self._process is not None
        assert self._process.answer is not None
        told: dict[str, Any] = json.loads(self._process.answer)
        return told

    def look(self) -> None:
        """Start it if it is not there. Raises TuneserveError if it always fails at once."""
        now = time.monotonic()
        if self._process is None:
            if now >= self._start_at:
                self._start()
            return
        if self._ready_since is None and self._process.answer is not None:
            self._ready_since = now
            if self._ever_ready:
                say(f"{self.name} is ready again")
            self._ever_ready = True
        code = self._process.code()
        if code is not None:
            self._ended(self._process, code, now)

    def _start(self) -> None:
        command = own_module("tuneserve.serve.replicas.replica")
        self._process = ToldProcess(self.name, command, stdin=self._order, env=self._env)
        say(f"{self.name} is started (process {self._process.pid})")

    def _ended(self, process: ToldProcess, code: int, now: float) -> None:
        held = self._ready_since is not None and now - self._ready_since > SOON_SECONDS
        self._failures = 0 if held else self._failures + 1
        told = f"{self.name} has ended ({ending(code)})"
        if code == UsageError.exit_code and not self._ever_ready:
            raise UsageError(told, problems=list(process.lines))
        if self._failures == MOST_FAILURES:
            raise TuneserveError(
                f"{told}, {MOST_FAILURES} times in a row at once", problems=list(process.lines)
            )
        say(f"{told}; it is started again")
        self._start_at = now + WAITS[self._failures]
        self._process = self._ready_since = None

    def send(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.code() is None:
            self._process.send(number)

    def stopped(self) -> bool:
        """Has it ended, or is it not there?"""
        return self._process is None or self._process.code() is not None

    def answered_all(self) -> bool:
        """Of one that has stopped: were all its requests answered?"""
        return self._process is None or not self.is_ready or self._process.code() == 0

    def end(self) -> None:
        if self._process is not None:
            self._process.end()
