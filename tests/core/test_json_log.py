"""A log for programs: whatever a process says, each line is an object."""

from __future__ import annotations

import json
import subprocess
import sys

from tuneserve.json_log import entry_of

SAYS = """
import logging, threading, warnings
from tuneserve.console import say
from tuneserve.json_log import log_as_json, write_entry
log_as_json()
say("Try:\\n  curl \\x1b[1m", lines=True)
write_entry({"status": 200})
logging.getLogger("any").warning("full: %s", "disk")
try:
    1 / 0
except ZeroDivisionError:
    logging.getLogger("any").exception("a defect")
warnings.warn("old", stacklevel=1)
thread = threading.Thread(target=lambda: [][0])
thread.start()
thread.join()
raise ValueError("the end")
"""


def test_messages_warnings_and_tracebacks_are_objects() -> None:
    done = subprocess.run([sys.executable, "-c", SAYS], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "\x1b" not in done.stderr
    told = [json.loads(line) for line in done.stderr.splitlines()]
    assert all("time" in entry for entry in told)
    assert [entry.get("message") for entry in told] == [
        "Try:\n  curl \x1b[1m", None, "full: disk", "a defect", "old",
        "IndexError: list index out of range", "ValueError: the end",
    ]  # fmt: skip
    assert told[1]["status"] == 200
    assert [entry["level"] for entry in told if "level" in entry] == [
        "warning", "error", "warning", "error", "error",
    ]  # fmt: skip
    assert all("Traceback" in told[place]["traceback"] for place in (3, 5, 6))


def test_a_line_that_only_looks_like_an_object_is_none() -> None:
    assert entry_of('{"time": "now"}') == {"time": "now"}
    for line in ("", "stopped", '{"a": 1}}', '{"a"', "{" * 100_000, '["a"]'):
        assert entry_of(line) is None
