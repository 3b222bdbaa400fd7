"""The stages that the page has started: each a process in a session of its own, which goes on when
the page's server ends, with what it says in the run's logs/ folder."""

from __future__ import annotations

import itertools
import os
import shlex
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tuneserve.child import own_module
from tuneserve.console import say
from tuneserve.errors import TuneserveError, UsageError
from tuneserve.overview.run_files import holder_of
from tuneserve.run import RunDirectory
from tuneserve.ui.logs import last_words, opened_log, read_tail

REFUSED = UsageError.exit_code
_SAVED = 130  # a training that was stopped
_ENDED = (-signal.SIGTERM, 128 + signal.SIGTERM)


@dataclass
class Job:
    """A command that was started, and what became of it. `offset`: where its part of the log
    begins, in bytes."""

    number: int
    run: RunDirectory
    stage: str
    words: list[str]
    log: Path
    offset: int
    process: subprocess.Popen[bytes]
    begun: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    stopping: bool = False
    said: str = ""
    """Its last words, once it has ended."""
    last_line: str = ""
    """Of its log, while it runs: how far it is."""

    @property
    def state(self) -> str:
        code = self.process.returncode
        if code is None:
            return "stopping" if self.stopping else "running"
        if code == 0:
            return "done"
        if code == _SAVED or (self.stopping and code in _ENDED):
            return "stopped"
        return "refused" if code == REFUSED else "failed"

    def as_json(self) -> dict[str, Any]:
        return {
            "number": self.number, "run": self.run.name, "stage": self.stage,
            "command": shlex.join(["tuneserve", *self.words]), "begun": self.begun,
            "state": self.state, "code": self.process.returncode, "said": self.said,
            "last_line": self.last_line,
        }  # fmt: skip


class Jobs:
    """The jobs of this process, the newest first."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._jobs: list[Job] = []

    def all(self) -> list[Job]:
        for job in self._jobs:
            self._look(job)
        return list(self._jobs)

    def running(self, run: RunDirectory) -> Job | None:
        """The stage of a run that runs."""
        found = (job for job in self.all() if job.run.name == run.name)
        return next((job for job in found if job.process.returncode is None), None)

    def require_idle(self, run: RunDirectory) -> None:
        """Raise TuneserveError if a process is at work on the run, or about to be."""
        holder = holder_of(run)
        if holder is None and (job := self.running(run)) is not None:
            holder = f"process {job.process.pid} (tuneserve {job.stage}), which has just begun"
        if holder is not None:
            raise TuneserveError(f"is being worked on: {holder}", where=str(run.root))

    def start(self, stage: str, run: RunDirectory, words: Sequence[str]) -> Job:
        """Start `tuneserve STAGE …`, the words behind `tuneserve`. Raises TuneserveError if a
        process is at work on the run, or its log can't be written."""
        self.require_idle(run)
        log, descriptor = opened_log(run, stage)
        with os.fdopen(descriptor, "ab") as file:
            offset = file.tell()
            file.write(f"$ {shlex.join(['tuneserve', *words])}\n".encode())
            file.flush()
            process = subprocess.Popen(
                own_module("tuneserve", *words, with_parent=False),
                stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True,
            )  # fmt: skip
        job = Job(next(self._numbers), run, stage, list(words), log, offset, process)
        self._jobs.insert(0, job)
        say(f"started process {process.pid}: {shlex.join(['tuneserve', *words])}")
        return job

    def _look(self, job: Job) -> None:
        """Note if a job has ended. Of a refused start of a run that is none yet nothing stays."""
        if job.process.returncode is not None:
            return
        runs = job.process.poll() is None
        text = read_tail(job.log, begin=job.offset).text if job.log.is_file() else ""
        _, *lines = [line for line in text.splitlines() if line.strip()] or [""]
        job.last_line = lines[-1] if runs and lines else ""  # the first one is the command
        if runs:
            return
        job.said = last_words(text)
        say(f"process {job.process.pid} has ended: {job.stage} of {job.run.name} {job.state}")
        if job.state == "refused" and not job.run.record_path.exists():
            job.log.unlink(missing_ok=True)
            for folder in (job.run.logs, job.run.root):
                if folder.is_dir() and not any(folder.iterdir()):
                    folder.rmdir()
