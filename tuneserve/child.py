"""Work in a process of its own: what may die, take too much, or must not share this one's
libraries. Its limits, how it is spoken to and how it ended."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tuneserve.errors import TuneserveError

REFUSED = 3
"""The exit code of a child that has found out what it was asked; the reason is on its stdout."""
_START = Path(__file__).with_name("child_start.py")
_SHOWN_LINES = 8
_READ_AT_ONCE = 1 << 16


def own_module(module: str, *arguments: str, with_parent: bool = True, **limits: int) -> list[str]:
    """The command that runs a module of this package in another Python. The working directory is
    not searched for modules: it may hold files of the user's with the same names. Its memory is
    never written to disk; `limits` are those of tuneserve.child_start.

    The process is killed (Linux) when the thread that starts it ends, and so with this process,
    whatever ended that; not without `with_parent`.
    """
    root = str(Path(__file__).parents[1])
    return [*_start(os.getpid() if with_parent else 0, limits), root, module, *arguments]


def own_script(path: Path, *arguments: str, **limits: int) -> list[str]:
    """The same for a file that is to have the standard library alone: this package is not found."""
    return [*_start(os.getpid(), limits), "", str(path), *arguments]


def own_program(program: str, *arguments: str, **limits: int) -> list[str]:
    """The same for a program that is no Python."""
    return [*_start(os.getpid(), limits), "-", program, *arguments]


def _start(parent: int, limits: Mapping[str, int]) -> list[str]:
    most = json.dumps({"core": 0, **limits})
    return [sys.executable, "-P", str(_START), str(parent), most]


def ended_child(
    command: Sequence[str],
    *,
    stdin: str = "",
    env: Mapping[str, str] | None = None,
    seconds: float | None = None,
) -> subprocess.CompletedProcess[str]:
    """A command that has run to its end, without a terminal, with what it wrote. `env` is added to
    the environment. It ends with this process: Ctrl-C reaches both.

    Raises TimeoutError after so many `seconds`; it is killed then.
    """
    try:
        return subprocess.run(
            command, input=stdin, capture_output=True, text=True, errors="replace", check=False,
            env={**os.environ, **(env or {})}, timeout=seconds,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise TimeoutError from error


def run_child(
    command: Sequence[str],
    *,
    what: str,
    stdin: str = "",
    env: Mapping[str, str] | None = None,
    hint: str = "",
) -> str:
    """The stdout of `ended_child`. Raises TuneserveError with the last lines of its output if it
    fails."""
    done = ended_child(command, stdin=stdin, env=env)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        how = "killed by " * (done.returncode < 0) + ending(done.returncode)
        raise TuneserveError(f"{what} failed ({how})", problems=lines[-_SHOWN_LINES:], hint=hint)
    return done.stdout


def answer_request(work: Callable[[Any], Any]) -> None:
    """In a child: what it was asked is on stdin, and its answer goes to stdout, both JSON. What
    libraries print meanwhile goes to stderr."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    json.dump(work(json.load(sys.stdin)), answers)
    answers.close()


def ending(code: int) -> str:
    """How a process ended, by its code: 'SIGKILL', 'exit code 1'."""
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


class Worker:
    """A child that answers what it is asked, for one caller at a time. It is ended, with all that
    it has started, when this object or this process ends."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: str | None = None,
        silent: bool = False,
    ) -> None:
        """`env` is its whole environment; `silent`: what it says on stderr is dropped."""
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=dict(env), cwd=cwd,
            stderr=subprocess.DEVNULL if silent else None, start_new_session=True,
        )  # fmt: skip
        self.pid = self._process.pid
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._in, self._out = self._process.stdin.fileno(), self._process.stdout.fileno()
        for pipe in (self._in, self._out):
            os.set_blocking(pipe, False)
        self._end = weakref.finalize(self, _end, self._process, os.getpid())

    def ask(
        self, request: bytes, is_whole: Callable[[bytearray], bool], *, seconds: float
    ) -> bytes:
        """Send a request and read until the answer `is_whole`: either side may read or write
        nothing for long. Raises TimeoutError, and EOFError where the process ended first."""
        deadline = time.monotonic() + seconds
        left = memoryview(request)
        received = bytearray()
        poll = select.poll()
        poll.register(self._out, select.POLLIN)
        if left:
            poll.register(self._in, select.POLLOUT)
        while not is_whole(received):
            ready = dict(poll.poll(1000 * max(0.0, deadline - time.monotonic())))
            if not ready:
                raise TimeoutError
            if self._in in ready:
                try:
                    left = left[os.write(self._in, left) :]
                except BrokenPipeError:
                    raise EOFError from None
                if not left:
                    poll.unregister(self._in)
            if self._out in ready:
                part = os.read(self._out, _READ_AT_ONCE)
                if not part:
                    raise EOFError
                received += part
        return bytes(received)

    def ended(self, seconds: float) -> int | None:
        """Its code if it ends by itself within so many seconds."""
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def end(self) -> int:
        """Kill it, if it has not ended; its code."""
        self._end()
        code: int = self._process.returncode
        return code


def _end(process: subprocess.Popen[bytes], owner: int) -> None:
    if os.getpid() != owner:  # a copy of the process whose it is
        return
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        assert pipe is not None
        pipe.close()
