"""One trial: the real `tuneserve train` in a child process, watched, and what came of it."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from tuneserve.child import ending, own_module
from tuneserve.errors import TuneserveError, UsageError
from tuneserve.finetune.training.progress_file import FILE as PROGRESS_FILE
from tuneserve.finetune.training.progress_file import ProgressReader
from tuneserve.run import RunDirectory

_POLL_SECONDS = 0.2
_TAIL_BYTES = 20_000
PRUNED = None
"""What `train_trial` returns where the trial was ended because others do better."""


@dataclass(frozen=True)
class Evaluation:
    """An evaluation of a trial: its `place` (from 1), after which step of all it was made, and the
    eval loss in nats per answer token."""

    place: int
    step: int
    loss: float
    steps: int


class SweepStoppedError(TuneserveError):
    """A sweep was stopped by Ctrl-C or SIGTERM; its trial is saved as a training is."""

    exit_code = 130


class Signals:
    """Passes Ctrl-C and SIGTERM on to the training, which saves what it has."""

    def __init__(self) -> None:
        self.received = False
        self.process: subprocess.Popen[bytes] | None = None

    def _receive(self, number: int, _: FrameType | None) -> None:
        self.received = True
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)

    @contextmanager
    def passed_on(self) -> Iterator[None]:
        """Handle SIGINT and SIGTERM so while the block runs."""
        numbers = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.signal(number, self._receive) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def train_trial(
    recipe: Path,
    run: RunDirectory,
    log: Path,
    signals: Signals,
    on_evaluation: Callable[[Evaluation], bool],
    *,
    preflight: bool,
) -> int | None:
    """Train a recipe as a run, or go on with it; returns the exit code, or PRUNED.

    What the training says goes to the end of `log`. `on_evaluation` is told of each evaluation of
    the trained model, and answers whether the trial is to end here. Without `preflight` the
    conversion is not looked at before: nothing that is varied decides about it. The training ends
    with this process.
    """
    command = own_module(
        "tuneserve", "train", "--config", str(recipe), "--run", run.name, "--skip-done",
        *(() if preflight else ("--no-preflight",)),
    )  # fmt: skip
    with log.open("ab") as output:
        # In a session of its own: a Ctrl-C comes by `signals` alone, and once.
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
    signals.process = process
    progress, told = ProgressReader(run.root / PROGRESS_FILE), 0
    try:
        while True:
            code = process.poll()
            done = progress.evaluations()
            trained = [one for one in done if one.step > 0 and "eval" in one.losses]
            for place, one in enumerate(trained[told:], start=told + 1):
                told = place
                if on_evaluation(Evaluation(place, one.step, one.losses["eval"], one.steps)):
                    return PRUNED
            if code is not None:
                return code
            time.sleep(_POLL_SECONDS)
    finally:
        signals.process = None
        _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill a training that has not ended: what it would save is not wanted."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def failure(code: int, log: Path) -> str:
    """Why a training failed, in a line."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - _TAIL_BYTES))
        lines = file.read().decode("utf-8", errors="replace").splitlines()
    if code < 0:
        out = ": memory may have run out" if -code == signal.SIGKILL else ""
        return f"killed by {ending(code)}{out}"
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    spoken = [line.strip() for line in lines if line.strip()]
    return (errors or spoken or [ending(code)])[-1]


def is_usage_error(code: int) -> bool:
    """Was the recipe refused, and not the training failed?"""
    return code == UsageError.exit_code
