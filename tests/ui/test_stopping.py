"""Only the process that is proved to work on a run is signalled, and only once."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support import ROOT
from tuneserve.errors import TuneserveError
from tuneserve.run import RunDirectory
from tuneserve.ui.stopping import Stopper
from tuneserve.ui.views import stage_at_work

# Holds the lock of a run as a stage does, and tells of each SIGTERM.
HOLDER = """
import signal, sys
from pathlib import Path
from tuneserve.run import RunDirectory
signal.signal(signal.SIGTERM, lambda *_: print("told", flush=True))
with RunDirectory(Path(sys.argv[3])).alone():
    print("held", flush=True)
    sys.stdin.read()
"""

pytestmark = pytest.mark.skipif(not Path("/proc/locks").exists(), reason="no /proc/locks here")


@contextmanager
def holding(run: RunDirectory, *words: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", HOLDER, *words, str(run.root)]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        assert process.stdin is not None
        process.stdin.close()


def test_the_holder_of_the_lock_is_told_once(tmp_path: Path) -> None:
    run, stopper = RunDirectory(tmp_path / "a"), Stopper()
    with pytest.raises(TuneserveError, match="no process is proved"):
        stopper.stop(run, None)
    with holding(run, "tuneserve", "train") as process:
        assert stage_at_work(run) == "train"
        said = stopper.stop(run, None)
        assert said.startswith(f"Asked process {process.pid} (tuneserve train) to stop.")
        assert "saves a checkpoint" in said
        assert process.stdout is not None
        assert process.stdout.readline() == "told\n"
        # A second signal would end the training without saving.
        with pytest.raises(TuneserveError, match="asked to stop already"):
            stopper.stop(run, None)
        # The lock of another run is another process's, or nobody's.
        other = RunDirectory(tmp_path / "b")
        other.root.mkdir()
        other.lock.touch()
        with pytest.raises(TuneserveError, match="no process is proved"):
            stopper.stop(other, None)
        process.stdin.close() if process.stdin else None
        assert process.stdout.read() == ""
    assert stage_at_work(run) == ""
    with pytest.raises(TuneserveError, match="no process is proved"):
        stopper.stop(run, None)


def test_a_process_that_is_no_stage_is_not_signalled(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "a")
    with holding(run, "editor", "open") as process:
        assert stage_at_work(run) == "other"
        with pytest.raises(TuneserveError, match="can't be proved to be the one"):
            Stopper().stop(run, None)
        process.stdin.close() if process.stdin else None
        assert process.stdout is not None
        assert process.stdout.read() == ""
