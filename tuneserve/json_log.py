"""A log for programs: every line that this process writes to stderr is one JSON object, with the
`time` (ISO 8601, UTC) and, where it is no request's entry, a `message`.

What a library in C writes by itself when it ends the process can't be held here; a process that has
this one as its child can (serve/replicas/process.py).
"""

from __future__ import annotations

import json
import logging
import sys
import threading
import traceback
import warnings
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, TextIO

from tuneserve.console import tell_by
from tuneserve.visible import json_text

_is_on = False


def log_as_json() -> None:
    """From now on, to the end of this process: messages, warnings and tracebacks too."""
    global _is_on
    _is_on = True
    tell_by(_message)
    if logging.lastResort is not None:  # what writes warnings where no logging is set up
        logging.lastResort.setFormatter(_Entries())
    warnings.showwarning = _warning
    sys.excepthook = _failure
    threading.excepthook = _failure_of_a_thread


def is_json_log() -> bool:
    return _is_on


def write_entry(entry: dict[str, Any]) -> None:
    """One object as a line on stderr, written at once: threads' lines do not mix."""
    print(f"{_line(entry)}\n", end="", file=sys.stderr, flush=True)


def entry_of(line: str) -> dict[str, Any] | None:
    """The object in a line of such a log; None if it is no object."""
    if not line.startswith("{"):
        return None
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _line(entry: dict[str, Any]) -> str:
    return json_text({"time": datetime.now(UTC).isoformat(timespec="milliseconds"), **entry})


def _message(message: str) -> None:
    write_entry({"message": message})


class _Entries(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        entry = {"message": record.getMessage(), "level": record.levelname.lower()}
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return _line(entry)


def _warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int,
    file: TextIO | None = None, line: str | None = None,
) -> None:  # fmt: skip
    write_entry({"message": str(message), "level": "warning", "place": f"{filename}:{lineno}"})


def _failure(kind: type[BaseException], error: BaseException, place: TracebackType | None) -> None:
    told = "".join(traceback.format_exception(kind, error, place))
    write_entry({"message": f"{kind.__name__}: {error}", "level": "error", "traceback": told})


def _failure_of_a_thread(failed: threading.ExceptHookArgs) -> None:
    if failed.exc_value is not None:
        _failure(failed.exc_type, failed.exc_value, failed.exc_traceback)
