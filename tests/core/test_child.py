from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.support import ROOT

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
