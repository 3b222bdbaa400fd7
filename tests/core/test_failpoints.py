"""Failpoints of a process that is started with one, and what a user is told."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import ROOT
from tuneserve.failpoints import Failure

WRITE = """
from pathlib import Path
from tuneserve.cli import main
import tuneserve.cli.data, click
from tuneserve.cli import COMMANDS
from tuneserve.files import write_text

@click.command()
def command():
    write_text(Path("out") / "a.txt", "new")

tuneserve.cli.data.command = command
main(["data"])
"""


def write(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Write out/a.txt as a command does."""
    return subprocess.run(
        [sys.executable, "-c", WRITE], cwd=folder, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
    )  # fmt: skip


def test_the_points_of_a_write_and_a_failure_at_each(tmp_path: Path) -> None:
    log = tmp_path / "points"
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.txt").write_text("old")
    within = {"TUNESERVE_FAILPOINT_IN": str(tmp_path / "out")}
    assert write(tmp_path, TUNESERVE_FAILPOINT_LOG=str(log), **within).returncode == 0
    names = [line.split()[0] for line in log.read_text().splitlines()]
    assert names == [
        "mkdir", "open", "open", "fsync", "synced", "rename", "fsync", "synced", "remove", "rmdir",
    ]  # fmt: skip
    failures = {"enospc": "no space left on device", "eio": "input/output error", "kill": ""}
    for number, action in enumerate(["kill", "enospc", "eio", "kill"], 2):
        said = failures[action]
        (tmp_path / "out" / "a.txt").write_text("old")
        done = write(tmp_path, TUNESERVE_FAILPOINT=f"any:{number}={action}", **within)
        assert done.returncode == (1 if said else -signal.SIGKILL)
        assert (tmp_path / "out" / "a.txt").read_text() == "old"
        assert "Traceback" not in done.stderr
        if said:
            assert done.stderr.startswith(f"error: out/a.txt: {said}")
            assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.txt"]
    assert write(tmp_path).returncode == 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.txt"]


def test_what_names_no_failure_is_refused() -> None:
    assert vars(Failure.read("fsync:3=eio")) == {"name": "fsync", "left": 3, "action": "eio"}
    assert vars(Failure.read("any")) == {"name": "any", "left": 1, "action": "kill"}
    with pytest.raises(ValueError, match="no such action"):
        Failure.read("any=panic")


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write everywhere")
def test_a_folder_that_can_not_be_written_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir(mode=0o500)
    done = write(tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("error: out/a.txt: permission denied")
