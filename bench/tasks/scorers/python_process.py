"""A scorer's code in a process of its own, with limits of time and memory."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import subprocess
import time
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuneserve.child import own_script
from tuneserve.errors import UsageError

_CHILD = Path(__file__).with_name("python_child.py")
_SECRET = re.compile(r"KEY|TOKEN|SECRET|PASSW|CREDENTIAL", re.IGNORECASE)
_START_SECONDS = 60.0  # its imports too
_LONGEST_REPLY = 1 << 20  # bytes; the code may be anybody's


@dataclass(frozen=True)
class Limits:
    """What scoring may take: seconds an answer, seconds in all, bytes of address space
    (0 = any)."""

    answer_seconds: float
    total_seconds: float
    memory_bytes: int


class AnswerError(Exception):
    """The code failed on one answer; the text says how."""


class ScorerProcess:
    """The function of a Python file, called in a process that has neither this one's memory nor the
    keys and tokens of its environment. Results come as JSON. A process that takes too long or dies
    is replaced by a new one at the next call."""

    def __init__(self, path: Path, name: str, limits: Limits) -> None:
        """Raises UsageError if the file can't be run or has no such function."""
        self.files: set[Path] = {path}
        self._command = own_script(_CHILD, str(path), name, str(limits.memory_bytes))
        self._where = f"bench.scorer: {path}"
        self._name = name
        self._limits = limits
        self._spent = 0.0
        self._process: subprocess.Popen[bytes] | None = None
        self._start()

    def score(self, answer: str, reference: str) -> float:
        """What the function returned, as a number. Raises AnswerError where it fails on this
        answer, UsageError once all calls together have taken too long."""
        left = self._limits.total_seconds - self._spent
        if left <= 0:
            raise UsageError(
                f"took more than {self._limits.total_seconds:g} s in all",
                where=self._where,
                hint="Make it faster, or allow more: --scorer-total-seconds. What is measured is "
                "kept: go on with --rescore.",
            )
        request = json.dumps({"answer": answer, "reference": reference}) + "\n"
        started = time.monotonic()
        try:
            if self._process is None:
                self._start()
            reply = self._ask(request, min(self._limits.answer_seconds, left))
        finally:
            self._spent += time.monotonic() - started
        for kind, form in (
            ("failed", "failed: {}"),
            ("returned", "returned {}, which is no number"),
        ):
            if kind in reply:
                raise AnswerError(form.format(reply[kind]))
        return float(reply["score"])

    def _start(self) -> None:
        environment = {
            name: value for name, value in os.environ.items() if not _SECRET.search(name)
        }
        process = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment,
            start_new_session=True,
        )  # fmt: skip
        self._process = process
        self._finish = weakref.finalize(self, _end, process)
        try:
            reply = self._ask("", _START_SECONDS)
        except AnswerError as error:
            raise UsageError(f"can't be run: {error}", where=self._where) from None
        if "unloadable" in reply:
            self._finish()
            raise UsageError(f"can't be run: {reply['unloadable']}", where=self._where)
        if not reply.get("callable"):
            self._finish()
            raise UsageError(f"has no function '{self._name}'", where=self._where)

    def _ask(self, request: str, seconds: float) -> dict[str, Any]:
        """The reply to a request; a process that gives none in time is killed."""
        process = self._process
        assert process is not None
        try:
            reply: dict[str, Any] = json.loads(_exchange(process, request.encode(), seconds))
            self.files |= {Path(file) for file in reply["files"]}
        except TimeoutError:
            failure = f"took longer than {seconds:.3g} s and was killed"
        except (ValueError, KeyError, TypeError):
            failure = "its process ended or sent no reply"
        else:
            return reply
        self._finish()
        if process.returncode and process.returncode < 0 and "ended" in failure:
            failure += f" ({signal.Signals(-process.returncode).name})"
        self._process = None
        raise AnswerError(failure)


def _exchange(process: subprocess.Popen[bytes], request: bytes, seconds: float) -> bytes:
    """Send a line and read one; both may block, since the other side may read or write nothing.
    Raises TimeoutError; gives what came, maybe nothing, where the process ended."""
    assert process.stdin is not None
    assert process.stdout is not None
    out, back = process.stdin.fileno(), process.stdout.fileno()
    os.set_blocking(out, False)
    os.set_blocking(back, False)
    deadline = time.monotonic() + seconds
    received = bytearray()
    while not received.endswith(b"\n") and len(received) <= _LONGEST_REPLY:
        left = deadline - time.monotonic()
        ready = select.select([back], [out] if request else [], [], max(left, 0))
        if left <= 0 or not any(ready):
            raise TimeoutError
        if ready[1]:
            try:
                request = request[os.write(out, request) :]
            except BrokenPipeError:
                break
        if ready[0]:
            part = os.read(back, 1 << 16)
            if not part:
                break
            received += part
    return bytes(received[: _LONGEST_REPLY + 1])


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill the process with all that it started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()
