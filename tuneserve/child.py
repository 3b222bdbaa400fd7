"""Work in a process of its own: what may die, or must not share this one's libraries."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from tuneserve.errors import TuneserveError

# PR_SET_PDEATHSIG of linux/prctl.h; a parent that has ended before is another one by then.
_WITH_PARENT = """\
import ctypes, os, runpy, sys
parent, prctl = int(sys.argv.pop(1)), getattr(ctypes.CDLL(None), "prctl", None)
if parent and prctl:
    prctl(1, 9)
    if os.getppid() != parent:
        os._exit(1)
"""
_RUN_MODULE = f"""{_WITH_PARENT}
sys.path.insert(0, sys.argv.pop(1))
runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=False)
"""
_RUN_SCRIPT = f"""{_WITH_PARENT}
runpy.run_path(sys.argv.pop(1), run_name="__main__")
"""
_SHOWN_LINES = 8


def own_module(module: str, *arguments: str, with_parent: bool = True) -> list[str]:
    """The command that runs a module of this package in another Python. The working directory is
    not searched for modules: it may hold files of the user's with the same names.

    The process is killed (Linux) when the thread that starts it ends, and so with this process,
    whatever ended that; not without `with_parent`.
    """
    parent, root = str(os.getpid() if with_parent else 0), str(Path(__file__).parents[1])
    return [sys.executable, "-P", "-c", _RUN_MODULE, parent, root, module, *arguments]


def own_script(path: Path, *arguments: str) -> list[str]:
    """The same for a file that is to have the standard library alone: this package is not found."""
    return [sys.executable, "-P", "-c", _RUN_SCRIPT, str(os.getpid()), str(path), *arguments]


def run_child(
    command: Sequence[str],
    *,
    what: str,
    stdin: str = "",
    env: Mapping[str, str] | None = None,
    hint: str = "",
) -> str:
    """Run a command to its end, without a terminal; returns its stdout. `env` is added to the
    environment.

    Raises TuneserveError with the last lines of its output if it fails. It ends with this process:
    Ctrl-C reaches both.
    """
    done = subprocess.run(
        command, input=stdin, capture_output=True, text=True, errors="replace", check=False,
        env={**os.environ, **(env or {})},
    )  # fmt: skip
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise TuneserveError(
            f"{what} failed ({_ending(done.returncode)})", problems=lines[-_SHOWN_LINES:], hint=hint
        )
    return done.stdout


def _ending(code: int) -> str:
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
