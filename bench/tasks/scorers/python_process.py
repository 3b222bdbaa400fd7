"""A scorer's code in a process of its own, with limits of time and memory."""

from __future__ import annotations

import json
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuneserve.child import Worker, ending, own_script
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
        memory = {"memory": limits.memory_bytes} if limits.memory_bytes else {}
        self._command = own_script(_CHILD, str(path), name, **memory)
        self._where = f"bench.scorer: {path}"
        self._name = name
        self._limits = limits
        self._spent = 0.0
        self._worker: Worker | None = None
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
            if self._worker is None:
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
        self._worker = Worker(self._command, env=environment)
        try:
            reply = self._ask("", _START_SECONDS)
        except AnswerError as error:
            raise UsageError(f"can't be run: {error}", where=self._where) from None
        if "unloadable" in reply:
            self._worker.end()
            raise UsageError(f"can't be run: {reply['unloadable']}", where=self._where)
        if not reply.get("callable"):
            self._worker.end()
            raise UsageError(f"has no function '{self._name}'", where=self._where)

    def _ask(self, request: str, seconds: float) -> dict[str, Any]:
        """The reply to a request; a process that gives none in time is killed."""
        assert self._worker is not None
        try:
            reply: dict[str, Any] = json.loads(
                self._worker.ask(request.encode(), _is_whole, seconds=seconds)
            )
            self.files |= {Path(file) for file in reply["files"]}
        except TimeoutError:
            failure = f"took longer than {seconds:.3g} s and was killed"
        except (EOFError, ValueError, KeyError, TypeError):
            failure = "its process ended or sent no reply"
        else:
            return reply
        code = self._worker.end()
        if code < 0 and "ended" in failure:
            failure += f" ({ending(code)})"
        self._worker = None
        raise AnswerError(failure)


def _is_whole(reply: bytearray) -> bool:
    return reply.endswith(b"\n") or len(reply) > _LONGEST_REPLY
