"""A running `tuneserve ui`, as its tests use it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.support import ROOT


@dataclass
class RunningUI:
    """The process, what it serves, and the folder that it was started in."""

    process: subprocess.Popen[str]
    url: str
    token: str
    folder: Path

    def log(self) -> str:
        return (self.folder / "ui.log").read_text()

    def get(self, path: str, **options: Any) -> httpx.Response:
        return httpx.get(self.url + path, timeout=60, **options)

    def send(self, path: str, body: Any = None, **headers: str) -> httpx.Response:
        """A request with the token."""
        given = {"X-Tuneserve-Token": self.token, **headers}
        return httpx.post(self.url + path, json=body or {}, headers=given, timeout=120)

    def job(self, run: str) -> dict[str, Any]:
        """What was started last of a run."""
        jobs = self.get("api/state").json()["jobs"]
        found: dict[str, Any] = next(job for job in jobs if job["run"] == run)
        return found

    def ended(self, run: str, seconds: float = 90) -> dict[str, Any]:
        """What was started last of a run, once it has ended."""
        wait_until(lambda: self.job(run)["code"] is not None, seconds)
        return self.job(run)


def wait_until(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@contextmanager
def running_ui(folder: Path) -> Iterator[RunningUI]:
    """Start `tuneserve ui` in a folder, on a free port."""
    log = folder / "ui.log"
    with log.open("w") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "tuneserve", "ui", "--port", "0"], cwd=folder, stderr=stderr,
            text=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
    try:
        wait_until(lambda: "#token=" in log.read_text() or process.poll() is not None)
        found = re.search(r"open (http\S+)#token=(\S+)", log.read_text())
        assert found, log.read_text()
        yield RunningUI(process, found[1], found[2], folder)
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0, log.read_text()
        assert "Traceback" not in log.read_text()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
