"""What moves on a terminal while one waits.

A bar: label, bar, figures and a note, none of them cut; in one line where there is room, else in
two; once in two it stays so, for what moves is hard to read. Or, of work whose parts can't be
counted, what is done and for how long.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType, RenderResult

_SHORTEST = 8
_LONGEST = 40


class Bar:
    """What the bar shows; `share` is from 0 to 1, the figures stand behind it."""

    def __init__(self, label: str) -> None:
        self._label = label
        self._in_two = False
        self._widest = [0, 0]
        self.share = 0.0
        self.figures: Sequence[str] = ("", "")
        self.note = ""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.cells import cell_len
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        width = options.max_width
        self._widest = [
            max(known, cell_len(one)) for known, one in zip(self._widest, self.figures, strict=True)
        ]
        taken = 5 + sum(1 + one for one in self._widest)
        rest = (
            width - taken - cell_len(self._label) - 1 - (cell_len(self.note) + 1) * bool(self.note)
        )
        self._in_two = self._in_two or rest < _SHORTEST + 1
        bar = ProgressBar(
            total=1.0, completed=self.share,
            width=max(1, min(_LONGEST, width - taken - 1 if self._in_two else rest - 1)),
        )  # fmt: skip
        row: list[RenderableType] = [bar, Text(f"{self.share:4.0%}")]
        rate, time = self.figures
        row += [Text(rate.rjust(self._widest[0])), Text(time.ljust(self._widest[1]))]
        if self._in_two:
            about = f"{self._label} {self.note}".rstrip()
            yield Text(about, no_wrap=True, overflow="ellipsis")
        else:
            row = [Text(self._label), *row, Text(self.note)]
        line = Table.grid(padding=(0, 1))
        for _ in row:
            line.add_column(no_wrap=True)
        line.add_row(*row)
        yield line


class Elapsed:
    """A label that moves, and the seconds since it was made."""

    def __init__(self, label: str) -> None:
        from rich.spinner import Spinner

        self._label = label
        self._begun = time.monotonic()
        self._spinner = Spinner("dots")

    def __rich__(self) -> RenderableType:
        from rich.text import Text

        # `human_seconds` tells tenths, which would flicker. A narrow terminal cuts the label.
        minutes, seconds = divmod(int(time.monotonic() - self._begun), 60)
        passed = f"{minutes} min {seconds:02d} s" if minutes else f"{seconds} s"
        self._spinner.update(text=Text(f"{passed}, {self._label}"))
        return self._spinner


@contextmanager
def shown_while(label: str, console: Console) -> Iterator[None]:
    """Show a label with the time that has passed while the block runs; nothing of it stays."""
    from rich.live import Live

    with Live(Elapsed(label), console=console, redirect_stdout=False, transient=True):
        yield


@contextmanager
def shown(bar: Bar, console: Console) -> Iterator[Callable[[], None]]:
    """Show a bar while the block runs; the function that is given draws it anew."""
    from rich.live import Live

    with Live(bar, console=console, redirect_stdout=False) as live:
        yield live.refresh
