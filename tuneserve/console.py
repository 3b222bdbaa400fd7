"""The terminal's look: messages, tables and progress, on stderr; results for programs on stdout.

On a terminal progress is a live bar with rate and time left; in a log it is a plain line every
few seconds.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tuneserve.visible import json_text, visible

if TYPE_CHECKING:
    from rich.console import Console

PLAIN_LINE_SECONDS = 10.0
_REDRAW_SECONDS = 0.1
# Of a column in which lines are broken, in cells.
_NARROWEST = 16
# No message has one: it would be shown as an escape.
_BOUND = "\0"
_FIGURE = re.compile(r"(?<=\d) (?=\S)")
_COMMAND = re.compile(r"(?<=: )tuneserve .*|`[^`]*`")
ESTIMATING = "estimating"
"""Shown for the time left while too little is done to say it."""


def stderr_console() -> Console:
    from rich.console import Console

    return Console(stderr=True, highlight=False, soft_wrap=True)


_tell: Callable[[str], None] | None = None


def tell_by(tell: Callable[[str], None] | None) -> None:
    """What `say` is given goes to this function from now on; None: to stderr as it is."""
    global _tell
    _tell = tell


def say(message: str, *, lines: bool = False) -> None:
    """One line for the person watching, written at once: threads' lines do not mix. What a terminal
    would obey or hide is shown as escapes, and so are line breaks, which may come from data, but
    for a message of several `lines`. On a terminal lines end between words, where neither a figure
    and its unit nor a command comes apart."""
    if _tell is not None:
        _tell(message)
        return
    shown = visible(message, keep="\n\t" if lines else "\t")
    if sys.stderr.isatty():
        width = stderr_console().width
        shown = "\n".join(fitted(line, width) for line in shown.split("\n"))
    print(f"{shown}\n", end="", file=sys.stderr, flush=True)


def fitted(line: str, width: int) -> str:
    """A line broken between words where it is wider than `width` cells; what has no place to be
    broken stays whole. The lines after the first are indented by two more."""
    from rich.cells import cell_len

    if cell_len(line) <= width:
        return line
    indent = line[: len(line) - len(line.lstrip(" "))]
    bound = _COMMAND.sub(lambda found: found[0].replace(" ", _BOUND), line.strip(" "))
    broken = [indent]
    for word in (word.replace(_BOUND, " ") for word in _FIGURE.sub(_BOUND, bound).split(" ")):
        begun = broken[-1] if broken == [indent] else f"{broken[-1]} "
        if broken == [indent] or cell_len(begun + word) <= width:
            broken[-1] = begun + word
        else:
            broken.append(f"{indent}  {word}")
    return "\n".join(broken)


def show_prompt(prompt: str) -> None:
    """What asks a person for a line, where stdout is a program's."""
    print(visible(prompt), end="", file=sys.stderr, flush=True)


def print_json(value: Any) -> None:
    """A result for a program, on stdout."""
    print(json_text(value), flush=True)


def print_text(text: str) -> None:
    """A text that a program reads, on stdout as it is."""
    print(text, end="")


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table; the first column is text, the others are right-aligned figures. Where the terminal
    is too narrow for it, columns of several words get narrower; where that is not enough, each row
    is a few lines."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    cells = [[visible(cell) for cell in one] for one in zip(columns, *rows, strict=True)]
    widths, least = _column_widths(cells), _column_widths(cells, folded=True)
    console, around = stderr_console(), 3 * len(columns) + 1
    if not sys.stderr.isatty():
        console.width = max(console.width, sum(widths) + around)  # a log has lines of any length
    elif sum(least) + around > console.width:
        say(title)
        for first, *others in rows:
            say(f"  {columns[0]}{': ' if columns[0] else ''}{first}")
            for name, cell in zip(columns[1:], others, strict=True):
                say(f"    {name}: {cell}")
        return
    heading = Text(visible(title), style="bold")
    shown = Table(title=heading, title_justify="left", box=box.SIMPLE_HEAD)
    for number, (column, width, narrow) in enumerate(zip(columns, widths, least, strict=True)):
        shown.add_column(
            Text(visible(column)), justify="right" if number else "left", overflow="fold",
            no_wrap=width == narrow,
        )  # fmt: skip
    for row in zip(*(one[1:] for one in cells), strict=True):
        # As text: names from data are no markup.
        shown.add_row(*map(Text, row))
    console.print(shown)


def _column_widths(columns: Sequence[Sequence[str]], *, folded: bool = False) -> list[int]:
    """In cells, of the widest line; `folded`: where lines of several words may be broken."""
    from rich.cells import cell_len

    widths = [max(map(cell_len, one)) for one in columns]
    if not folded:
        return widths
    words = [max(cell_len(word) for cell in one for word in cell.split(" ")) for one in columns]
    return [max(word, min(width, _NARROWEST)) for width, word in zip(widths, words, strict=True)]


def listed(parts: Sequence[str]) -> str:
    """'a', 'a and b', 'a, b and c'."""
    *most, last = parts
    return f"{', '.join(most)} and {last}" if most else last


def human_bytes(count: float) -> str:
    """Bytes as KiB, MiB, GiB with one decimal."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024 or unit == "GiB":
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    raise AssertionError


def bytes_per_second(rate: float) -> str:
    return f"{human_bytes(rate)}/s"


def human_rate(rate: float, unit: str) -> str:
    """Units a second as '12.3 layers/s', or for few '17 s for one of the layers'."""
    if 0 < rate < 0.1:
        return f"{1 / rate:,.0f} s for one of the {unit}"
    return f"{rate:,.1f} {unit}/s"


def percent(share: float, decimals: int = 1) -> str:
    """A share as '75.3 %'."""
    return f"{100 * share:.{decimals}f} %"


def human_seconds(seconds: float) -> str:
    """Seconds as '8.1 s', '3 min 05 s' or '2 h 10 min'."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def human_range(low: float, high: float) -> str:
    """A span of seconds as '40 to 70 s', '12 to 20 min' or '2.5 to 4.1 h', in its end's unit."""
    unit, name = (1, "s") if high < 120 else (60, "min") if high < 2 * 3600 else (3600, "h")
    digits = 1 if high / unit < 10 else 0
    return f"{low / unit:.{digits}f} to {high / unit:.{digits}f} {name}"


def time_left(shown: str) -> str:
    """The time left in a line of a log: '8.1 s left', or that it is being estimated."""
    return "estimating the time left" if shown == ESTIMATING else f"{shown} left"


@contextmanager
def waiting(label: str) -> Iterator[None]:
    """Say what is done while the block runs, of which no parts can be counted: on a terminal with
    the time that has passed, in a log as one line before it."""
    if sys.stderr.isatty():
        from tuneserve.bars import shown_while

        with shown_while(visible(label), stderr_console()):
            yield
    else:
        say(label)
        yield


Advance = Callable[..., None]
"""`advance(amount, note="")`: this much more is done; `note` is shown behind the figures."""


@contextmanager
def progress(
    label: str, total: float, *, unit: str = "", rate: Callable[[float], str] | None = None
) -> Iterator[Advance]:
    """Show work going on: bar, percentage, rate and time left.

    `total` and the amounts are in `unit`s; `rate` formats units per second
    (default: `human_rate`).
    """
    pace = _Pace(label, total, rate or (lambda value: human_rate(value, unit)))
    if sys.stderr.isatty():
        with _live_bar(pace) as advance:
            yield advance
    else:
        yield from _plain_lines(pace)


class _Pace:
    """How far some work is and how fast it goes."""

    def __init__(self, label: str, total: float, show_rate: Callable[[float], str]) -> None:
        self.label = label
        self._total = total
        self._show_rate = show_rate
        self._done = 0.0
        self._started = self._now = time.monotonic()
        # The first part may have waited for a model to load: the rate behind the time left begins
        # where it ends.
        self._first: tuple[float, float] | None = None

    def advance(self, amount: float) -> None:
        if self._first is None and self._done:
            self._first = self._now, self._done
        self._done += amount
        self._now = time.monotonic()

    @property
    def now(self) -> float:
        """When it came as far as it is, in seconds of the monotonic clock."""
        return self._now

    @property
    def is_done(self) -> bool:
        return self._done >= self._total

    @property
    def share(self) -> float:
        """From 0 to 1."""
        return min(1.0, self._done / self._total) if self._total else 1.0

    @property
    def rate(self) -> str:
        return self._show_rate(self._done / max(self._now - self._started, 1e-9))

    @property
    def time(self) -> str:
        """The time left, or all that it took."""
        if self.is_done:
            return f"in {human_seconds(self._now - self._started)}"
        first = self._first
        if first is None or self._now <= first[0] or self._done <= first[1]:
            return ESTIMATING
        seconds = (self._total - self._done) * (self._now - first[0]) / (self._done - first[1])
        return time_left(human_seconds(seconds))


@contextmanager
def _live_bar(pace: _Pace) -> Iterator[Advance]:
    from tuneserve.bars import Bar, shown

    bar = Bar(visible(pace.label))
    bar.figures = "", ESTIMATING
    drawn = pace.now
    with shown(bar, stderr_console()) as draw:

        def advance(amount: float, note: str = "") -> None:
            nonlocal drawn
            pace.advance(amount)
            if pace.now - drawn < _REDRAW_SECONDS and not pace.is_done:
                return
            drawn = pace.now
            bar.share, bar.note = pace.share, visible(note)
            bar.figures = pace.rate, pace.time
            draw()

        yield advance


def _plain_lines(pace: _Pace) -> Iterator[Advance]:
    last = pace.now

    def advance(amount: float, note: str = "") -> None:
        nonlocal last
        pace.advance(amount)
        if pace.now - last < PLAIN_LINE_SECONDS and not pace.is_done:
            return
        last = pace.now
        comma, more = "" if pace.is_done else ",", f", {note}" if note else ""
        told = time_left(ESTIMATING) if pace.time == ESTIMATING else pace.time
        say(f"{pace.label}: {100 * pace.share:.0f} %, {pace.rate}{comma} {told}{more}")

    yield advance
