"""Stop what works on a run, by SIGTERM: a training ends after the step at hand and saves a
checkpoint, other stages end and go on where they were.

No signal goes to a number that may be another process by now: the process is first held by a file
descriptor (pidfd), then proved to be the one that has the run's lock, then signalled by that
descriptor.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tuneserve.errors import TuneserveError
from tuneserve.locks import command_of, process_holding
from tuneserve.run import STAGES, RunDirectory
from tuneserve.ui.jobs import Job


class Stopper:
    """Stops each process once: a second signal would end it at once, without saving."""

    def __init__(self) -> None:
        self._signalled: set[tuple[int, str]] = set()

    def stop(self, run: RunDirectory, job: Job | None) -> str:
        """Ask for the end of what works on a run; returns what was done. `job`: the stage of it
        that was started here and has not ended.

        Raises TuneserveError where nothing is at work, or what is can't be proved to be it.
        """
        # This process's own child can be no other as long as nobody has waited for it.
        pid = process_holding(run.lock) if job is None else job.process.pid
        if pid is None:
            raise TuneserveError(
                "no process is proved to be at work on this run",
                where=str(run.root),
                hint="It has ended, or another user's process is: stop it where it was started.",
            )
        with _held(pid) as descriptor:
            stage = self._stage(run, pid, job)
            key = pid, _begun(pid)
            if key in self._signalled:
                raise TuneserveError(
                    "was asked to stop already, and does so after the step at hand",
                    where=f"process {pid}",
                    hint=f"To end it at once, without saving: kill {pid}",
                )
            signal.pidfd_send_signal(descriptor, signal.SIGTERM)
            self._signalled.add(key)
        if job is not None:
            job.stopping = True
        saves = " It saves a checkpoint first, after the step at hand." * (stage == "train")
        return f"Asked process {pid} (tuneserve {stage}) to stop.{saves}"

    def _stage(self, run: RunDirectory, pid: int, job: Job | None) -> str:
        """The stage that the process works on, now that it can be no other any more. Raises
        TuneserveError where it is none."""
        if job is not None and job.process.poll() is None:
            return job.stage
        stage = next((word for word in command_of(pid) if word in STAGES), None)
        if process_holding(run.lock) != pid or stage is None:
            raise TuneserveError(
                "can't be proved to be the one that works on this run", where=f"process {pid}"
            )
        return stage


@contextmanager
def _held(pid: int) -> Iterator[int]:
    """A descriptor of a process, for as long as the block runs. Raises TuneserveError."""
    try:
        descriptor = os.pidfd_open(pid)
    except OSError as error:
        raise TuneserveError(
            f"can't be stopped: {error.strerror}", where=f"process {pid}"
        ) from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _begun(pid: int) -> str:
    """When a process began, in ticks of the kernel: with its number, its identity."""
    try:
        told = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise TuneserveError("has ended", where=f"process {pid}") from error
    return told.rpartition(")")[2].split()[19]
