"""What is told of a stage that was started, from its log."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.ui.ui_support import wait_until
from tuneserve.run import RunDirectory
from tuneserve.ui.jobs import Job, Jobs


def test_the_last_line_is_told_while_it_runs_and_the_error_at_its_end(tmp_path: Path) -> None:
    log = tmp_path / "train.log"
    log.write_text("earlier\n")
    process = subprocess.Popen(
        [sys.executable, "-c", "import sys; sys.exit(len(sys.stdin.read()))"],
        stdin=subprocess.PIPE,
    )
    jobs = Jobs()
    job = Job(1, RunDirectory(tmp_path), "train", ["train"], log, log.stat().st_size, process)
    jobs._jobs.append(job)
    with log.open("a") as file:
        file.write("$ tuneserve train\n")
    (told,) = [one.as_json() for one in jobs.all()]
    assert (told["state"], told["last_line"]) == ("running", "")
    with log.open("a") as file:
        file.write("training: step 1/2\ntraining: step 2/2\x1b[31m\n\n")
    (told,) = [one.as_json() for one in jobs.all()]
    assert told["last_line"] == "training: step 2/2\\x1b[31m"
    with log.open("a") as file:
        file.write("error: no\n")
    assert process.stdin is not None
    process.stdin.write(b"x")
    process.stdin.close()
    wait_until(lambda: jobs.all()[0].state == "failed")
    (told,) = [one.as_json() for one in jobs.all()]
    assert (told["state"], told["last_line"], told["said"]) == ("failed", "", "error: no")
