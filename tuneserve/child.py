"""Work in a process of its own: what may die, or must not share this one's libraries."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from tuneserve.errors import TuneserveError

_RUN_MODULE = """\
import runpy, sys
sys.path.insert(0, sys.argv.pop(1))
runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=False)
"""
_SHOWN_LINES = 8


def own_module(module: str, *arguments: str) -> list[str]:
    """The command that runs a module of this package in another Python. The working directory is
    not searched for modules: it may hold files of the user's with the same names."""
    root = str(Path(__file__).parents[1])
    return [sys.executable, "-P", "-c", _RUN_MODULE, root, module, *arguments]


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
