"""Lock files touch nobody else's file, and say who holds them."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.support import ROOT
from tuneserve.errors import TuneserveError
from tuneserve.locks import HeldError, command_of, holder, locked, process_holding
from tuneserve.run import RunDirectory
from tuneserve.serve.api.batches.files import FileStore


def test_a_link_is_not_followed_and_nothing_is_truncated(tmp_path: Path) -> None:
    thesis = tmp_path / "thesis.tex"
    thesis.write_text("mine")
    run = RunDirectory(tmp_path / "runs" / "a")
    run.root.mkdir(parents=True)
    (run.root / ".lock").symlink_to(thesis)

    def work() -> None:
        with run.alone():
            pass

    with pytest.raises(TuneserveError, match="symbolic link where a lock file has to be"):
        work()
    (tmp_path / "lock").symlink_to(tmp_path / "absent")
    with pytest.raises(TuneserveError, match="symbolic link"):
        FileStore(tmp_path, most_bytes=1)
    assert not (tmp_path / "absent").exists()
    (run.root / ".lock").unlink()
    os.link(thesis, run.root / ".lock")
    work()
    assert thesis.read_text() == "mine"


def test_a_second_process_is_told_who_holds_the_run(tmp_path: Path) -> None:
    code = """
import sys
import threading
from pathlib import Path
from tuneserve.run import RunDirectory
with RunDirectory(Path(sys.argv[2])).alone():
    print("held", flush=True)
    sys.stdin.read()
"""
    run = RunDirectory(tmp_path / "a")
    # A word that is empty is one of the command's words too.
    arguments = [sys.executable, "-c", code, "tuneserve", str(run.root), "--clients", ""]
    with subprocess.Popen(
        arguments, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with pytest.raises(TuneserveError) as caught, run.alone():
            pass
        assert command_of(process.pid) == [str(run.root), "--clients", ""]
        process.communicate("")
    if Path("/proc/locks").exists():
        assert f"process {process.pid} (tuneserve " in caught.value.message
    assert "Wait until it is done" in caught.value.hint
    with run.alone():
        pass


def test_a_lock_is_released_at_the_end_and_held_once(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "x.lock"
    with locked(path, wait=False), pytest.raises(HeldError), locked(path, wait=False):
        pass
    with locked(path, wait=False):
        pass


def test_who_only_looks_keeps_nobody_out_and_finds_the_process_itself(tmp_path: Path) -> None:
    path = tmp_path / "x.lock"
    assert (holder(path), process_holding(path)) == (None, None)
    path.touch()
    assert (holder(path), process_holding(path)) == (None, None)
    with locked(path, wait=False):
        if Path("/proc/locks").exists():
            assert str(holder(path)).startswith(f"process {os.getpid()} (")
            assert process_holding(path) == os.getpid()
        copy = tmp_path / "copy.lock"
        copy.touch()
        assert process_holding(copy) is None
    assert holder(path) is None
    looking = os.open(path, os.O_RDONLY)
    fcntl.flock(looking, fcntl.LOCK_SH)
    threading.Timer(0.05, os.close, [looking]).start()
    with locked(path, wait=False):
        pass
    (tmp_path / "link").symlink_to(path)
    assert holder(tmp_path / "link") is None


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            ["/x/.venv/bin/tuneserve", "train", "--run", "tuneserve"],
            ["train", "--run", "tuneserve"],
        ),
        (["/x/tuneserve/child_start.py", "/x/tuneserve", "tuneserve", "train"], ["train"]),
        (["other", "train"], []),
    ],
)
def test_the_command_of_a_process_without_the_program_s_name(
    words: list[str], told: list[str]
) -> None:
    script = "import time; print(flush=True); time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", script, *words], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"\n"
        assert command_of(process.pid) == told
    finally:
        process.kill()
        process.communicate()
