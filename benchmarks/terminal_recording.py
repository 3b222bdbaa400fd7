"""The README's recording of the terminal: data to benchmark in four commands, as a moving SVG.

Writes a table as a European Excel does, then runs `tuneserve init` with its questions answered,
`train`, `convert` and `bench` of the demo base in a pseudo-terminal. All is real; the SVG leaves
waiting out: a pause is shown for at most half a second, and what is computed ten times as fast as
it was.

    python benchmarks/terminal_recording.py docs/terminal.svg [--steps 40]

Needs pyte. Some minutes on two cores.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from first_minutes import in_terminal, write_table
from terminal_frames import Screen, as_svg, frames

from tests.support import ROOT

COLUMNS, ROWS = 96, 30
FASTER = 10.0
LONGEST_PAUSE = 0.5
TYPED = 0.05  # seconds a character
LEAST_SHOWN = 0.12
LAST_SHOWN = 6.0

Written = Iterator[tuple[float, bytes]]


def typed(text: str) -> Written:
    yield 0.0, b"\x1b[32m$\x1b[0m "
    for letter in text:
        yield TYPED * FASTER, letter.encode()
    yield LONGEST_PAUSE * FASTER, b"\r\n"


def session(folder: Path, steps: int) -> Written:
    """The four commands."""
    write_table(folder / "tickets.csv")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    run = ["--config", "mine.toml", "--run", "mine"]
    for words, answers in (
        (["init"], ["tickets.csv", "demo", "Anfrage des Kunden", "Abteilung"]),
        (["train", *run, "--max-steps", str(steps), "--compile", "false"], []),
        (["convert", *run], []),
        (["bench", *run, "--general", "0", "--clients", "1", "--max-tokens", "16"], []),
    ):
        yield from typed(" ".join(["tuneserve", *words]))
        yield from in_terminal(["tuneserve", *words], answers, folder, environment, (ROWS, COLUMNS))
        yield LONGEST_PAUSE * FASTER, b""
    yield 0.0, b"\x1b[32m$\x1b[0m "


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path)
    parser.add_argument("--steps", type=int, default=40)
    given = parser.parse_args()
    screen, second, screens = Screen(COLUMNS, ROWS), 0.0, []
    with tempfile.TemporaryDirectory() as folder:
        for passed, written in session(Path(folder), given.steps):
            second += min(passed / FASTER, LONGEST_PAUSE)
            screen.feed(written)
            screens.append((second, screen.lines()))
    shown = frames(screens, least=LEAST_SHOWN, last=LAST_SHOWN)
    svg = as_svg(
        shown, COLUMNS, title="tuneserve in a terminal",
        says="tuneserve init reads a table and writes a recipe; train, convert and bench follow it "
        "to the verdict: how much better the tuned model is than its base.",
    )  # fmt: skip
    given.output.write_text(svg, encoding="utf-8")
    print(f"{given.output}: {len(shown)} frames, {sum(one.seconds for one in shown):.0f} s, "
          f"{len(svg.encode()) / 1024:.0f} KiB")  # fmt: skip


if __name__ == "__main__":
    main()
