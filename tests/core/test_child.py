from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support import ROOT
from tuneserve.child import Worker, ended_child, own_script

PARENT = """
import subprocess, sys
from pathlib import Path
from tuneserve.child import own_script
subprocess.run(own_script(Path(sys.argv[1]), "argument"))
"""
CHILD = """
import sys, time
print(sys.argv[1:], flush=True)
time.sleep(5)
print("late")
"""


def test_a_child_ends_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    child = tmp_path / "child.py"
    child.write_text(CHILD)
    command = [sys.executable, "-c", PARENT, str(child)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"['argument']\n"
        parent.kill()
        assert parent.stdout.read() == b""


LIMITS = """
import resource
for kind in (resource.RLIMIT_AS, resource.RLIMIT_CPU, resource.RLIMIT_CORE):
    print(*resource.getrlimit(kind))
"""


def test_a_child_has_its_limits_and_no_wider_ones(tmp_path: Path) -> None:
    child = tmp_path / "child.py"
    child.write_text(LIMITS)
    command = own_script(child, memory=1 << 30, processor=50)
    done = ended_child(command, seconds=20)
    assert done.stdout == f"{1 << 30} {1 << 30}\n50 50\n0 0\n", done.stderr
    narrow = f"ulimit -t 7; {' '.join(map(repr, command))}"
    assert "\n7 7\n" in ended_child(["bash", "-c", narrow]).stdout


def test_a_child_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    child = tmp_path / "child.py"
    child.write_text("import time; time.sleep(60)")
    with pytest.raises(TimeoutError):
        ended_child(own_script(child), seconds=0.5)


# Answers a line with as many, starts another process, and then does what it was told.
WORKER = """
import subprocess, sys, time
other = subprocess.Popen(["sleep", "60"], stdout=subprocess.DEVNULL)
for line in sys.stdin:
    if line == "end\\n":
        import os; os.kill(os.getpid(), 11)
    elif line == "sleep\\n":
        time.sleep(60)
    else:
        print(other.pid, line.strip(), flush=True)
"""


def _a_line(answer: bytearray) -> bool:
    return answer.endswith(b"\n")


def _runs(number: int) -> bool:
    try:
        return Path(f"/proc/{number}/stat").read_text(encoding="ascii").split()[2] != "Z"
    except FileNotFoundError:
        return False


def test_a_worker_answers_until_it_ends_or_takes_too_long(tmp_path: Path) -> None:
    child = tmp_path / "child.py"
    child.write_text(WORKER)
    worker = Worker(own_script(child), env=os.environ)
    long = b"x" * 5_000_000  # more than the pipes hold
    number, _, text = worker.ask(long + b"\n", _a_line, seconds=20).partition(b" ")
    assert text == long + b"\n"
    with pytest.raises(TimeoutError):
        worker.ask(b"sleep\n", _a_line, seconds=0.2)
    assert worker.end() == -signal.SIGKILL
    deadline = time.monotonic() + 10
    while _runs(int(number)):  # what it had started
        assert time.monotonic() < deadline
    another = Worker(own_script(child), env=os.environ)
    with pytest.raises(EOFError):
        another.ask(b"end\n", _a_line, seconds=20)
    assert another.end() == -signal.SIGSEGV


def test_a_copy_of_the_process_does_not_end_its_workers(tmp_path: Path) -> None:
    child = tmp_path / "child.py"
    child.write_text(WORKER)
    worker = Worker(own_script(child), env=os.environ)
    copy = os.fork()
    if not copy:
        worker._end()
        os._exit(0)
    assert os.waitpid(copy, 0)[1] == 0
    assert worker.ask(b"a\n", _a_line, seconds=20).endswith(b" a\n")
    worker.end()
