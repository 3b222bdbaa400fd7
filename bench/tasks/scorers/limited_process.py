"""Scoring in a process of its own, with limits of time and memory: one JSON object a line in, one
out."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuneserve.child import Worker, ending, own_script
from tuneserve.errors import UsageError
from tuneserve.settings import BenchSettings

_SECRET = re.compile(r"KEY|TOKEN|SECRET|PASSW|CREDENTIAL", re.IGNORECASE)
_START_SECONDS = 60.0  # its imports too
_END_SECONDS = 3.0  # from the end of its output to its own
_LONGEST_REPLY = 1 << 26  # bytes; the code may be anybody's


@dataclass(frozen=True)
class Limits:
    """What scoring may take: seconds an answer, seconds in all, bytes of address space
    (0 = any)."""

    answer_seconds: float
    total_seconds: float
    memory_bytes: int

    @classmethod
    def of(cls, settings: BenchSettings) -> Limits:
        memory = int(settings.scorer_memory * (1 << 30))
        return cls(settings.scorer_seconds, settings.scorer_total_seconds, memory)


class AnswerError(Exception):
    """Scoring failed on one answer; the text says how."""


class LimitedProcess:
    """A script of the standard library alone, in a process that has neither this one's memory nor
    the keys and tokens of its environment. It says a line when it is ready, then one for each that
    it is asked. A process that takes too long or dies is replaced by a new one at the next call."""

    def __init__(self, script: Path, *arguments: str, limits: Limits, where: str) -> None:
        """`where`: the setting that it stands for, in errors."""
        memory = {"memory": limits.memory_bytes} if limits.memory_bytes else {}
        self._command = own_script(script, *arguments, **memory)
        self._where = where
        self._limits = limits
        self._spent = 0.0
        self._worker: Worker | None = None

    def start(self) -> dict[str, Any]:
        """Start it; what it says when it is ready. Raises AnswerError."""
        environment = {
            name: value for name, value in os.environ.items() if not _SECRET.search(name)
        }
        self._worker = Worker(self._command, env=environment)
        return self._ask("", _START_SECONDS)

    def end(self) -> None:
        if self._worker is not None:
            self._worker.end()
            self._worker = None

    def ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """What it replies. Raises AnswerError where it fails on this request, UsageError once all
        calls together have taken too long."""
        left = self._limits.total_seconds - self._spent
        if left <= 0:
            raise UsageError(
                f"took more than {self._limits.total_seconds:g} s in all",
                where=self._where,
                hint="Make it faster, or allow more: --scorer-total-seconds. What is measured is "
                "kept: go on with --rescore.",
            )
        started = time.monotonic()
        try:
            if self._worker is None:
                self.start()
            return self._ask(json.dumps(request) + "\n", min(self._limits.answer_seconds, left))
        finally:
            self._spent += time.monotonic() - started

    def _ask(self, request: str, seconds: float) -> dict[str, Any]:
        """The reply to a request; a process that gives none in time is killed."""
        assert self._worker is not None
        try:
            reply = json.loads(self._worker.ask(request.encode(), _is_whole, seconds=seconds))
        except TimeoutError:
            failure = f"took longer than {seconds:.3g} s and was killed"
        except EOFError:
            # Its output ends a moment before it does.
            code = self._worker.ended(_END_SECONDS)
            if code is None:
                failure = "closed its output and was killed"
            elif code < 0:
                failure = f"was ended by {ending(code)}"
            else:
                failure = f"ended its process ({ending(code)})"
        except ValueError:
            failure = "sent what is no reply"
        else:
            if isinstance(reply, dict):
                return reply
            failure = "sent what is no reply"
        self.end()
        raise AnswerError(failure)


def _is_whole(reply: bytearray) -> bool:
    return reply.endswith(b"\n") or len(reply) > _LONGEST_REPLY
