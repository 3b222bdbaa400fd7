"""What terminals show of a command: recorded in pseudo-terminals, drawn by an emulator.

    python -m tests.terminals '{"load": ["unsloth"], "calls": [[80, ["train", "--run", "a"]]]}'

starts each call in a process of its own, which shares what was imported before, and prints what
each wrote as JSON. A call of 0 columns writes into a pipe.
"""

from __future__ import annotations

import base64
import fcntl
import importlib
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROWS = 40
_REDRAWN = re.compile(rb"(?=\r\x1b\[2K(?:\x1b\[1A\x1b\[2K)*)")


@dataclass
class Recording:
    """What a command wrote on a terminal of so many columns, or on stderr (0 columns)."""

    columns: int
    code: int
    written: bytes

    @property
    def text(self) -> str:
        return self.written.decode()

    def screens(self) -> Iterator[Screen]:
        """The screen after each drawing of what is drawn again and again; the last one is what
        stays."""
        import pyte

        screen = Screen(self.columns)
        stream = pyte.ByteStream(screen.drawn)
        for part in _REDRAWN.split(self.written):
            stream.feed(part)
            yield screen

    def last(self) -> Screen:
        *_, last = self.screens()
        return last


class Screen:
    """An emulated terminal with its history."""

    def __init__(self, columns: int) -> None:
        import pyte

        class Drawn(pyte.HistoryScreen):  # type: ignore[misc, unused-ignore]
            """Notes the lines that the terminal itself had to break."""

            def __init__(self) -> None:
                self.broken: list[str] = []
                self._writing = False
                super().__init__(columns, ROWS, history=10_000)

            def draw(self, data: str) -> None:
                self._writing = True
                super().draw(data)
                self._writing = False

            def linefeed(self) -> None:
                if self._writing:
                    self.broken.append(self.display[self.cursor.y].rstrip())
                super().linefeed()

        self.columns = columns
        self.drawn = Drawn()

    @property
    def broken(self) -> list[str]:
        """Lines that were wider than the terminal."""
        return list(self.drawn.broken)

    def lines(self) -> list[str]:
        """History and screen, without the empty lines at the end."""
        above = [
            "".join(line[place].data for place in range(self.columns)).rstrip()
            for line in self.drawn.history.top
        ]
        return (
            "\n".join([*above, *(line.rstrip() for line in self.drawn.display)])
            .rstrip()
            .split("\n")
        )


def record(
    folder: Path, load: Sequence[str], calls: Sequence[tuple[int, list[str]]]
) -> list[Recording]:
    """Run each call (columns, arguments of `tuneserve`) in a folder, one after another; the modules
    are imported once for all."""
    root = Path(__file__).resolve().parent.parent
    done = subprocess.run(
        [sys.executable, "-m", "tests.terminals", json.dumps({"load": load, "calls": calls})],
        cwd=folder, env={**os.environ, "PYTHONPATH": str(root)}, capture_output=True, text=True,
        timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    made = json.loads(done.stdout.splitlines()[-1])  # libraries write there too
    return [
        Recording(columns, one["code"], base64.b64decode(one["written"]))
        for (columns, _), one in zip(calls, made, strict=True)
    ]


def _run(columns: int, arguments: list[str]) -> dict[str, Any]:
    child, main = pty.fork() if columns else _fork_with_pipe()
    if child == 0:
        _be_the_program(columns, arguments)
    written = b""
    try:
        if columns:
            fcntl.ioctl(main, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, columns, 0, 0))
            os.write(main, b"\n")  # the size is set: begin
        while block := os.read(main, 65536):
            written += block
    except OSError:  # a terminal whose other end is closed
        pass
    os.close(main)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    return {"code": code, "written": base64.b64encode(written).decode()}


def _fork_with_pipe() -> tuple[int, int]:
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.dup2(write, 2)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.close(write)
    return child, read


def _be_the_program(columns: int, arguments: list[str]) -> None:
    """Become `tuneserve` with these arguments; a log gets a line of progress at each step."""
    from tuneserve import console
    from tuneserve.cli import main
    from tuneserve.finetune.training import progress

    try:
        if columns:
            attributes = termios.tcgetattr(0)
            attributes[3] &= ~termios.ECHO
            termios.tcsetattr(0, termios.TCSANOW, attributes)
            os.read(0, 1)
        os.environ["TERM"] = "xterm-256color"
        for name in ("COLUMNS", "LINES"):
            os.environ.pop(name, None)
        for module in (console, progress):
            vars(module)["PLAIN_LINE_SECONDS"] = 0.0
        sys.argv = ["tuneserve", *arguments]
        main()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # this process must not go on as the one that it was copied from
        traceback.print_exc()
        code = -1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    for name in given["load"]:
        importlib.import_module(name)
    print(json.dumps([_run(columns, arguments) for columns, arguments in given["calls"]]))
