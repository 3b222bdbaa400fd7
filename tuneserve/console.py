"""The terminal's look: messages, tables and progress, on stderr; results for programs on stdout.

On a terminal progress is a live bar with rate and time left; in a log it is a plain line every
few seconds.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tuneserve.visible import json_text, visible

if TYPE_CHECKING:
    from rich.console import Console

PLAIN_LINE_SECONDS = 10.0
ESTIMATING = "estimating"
"""Shown for the time left while too little is done to say it."""


def stderr_console() -> Console:
    from rich.console import Console

    return Console(stderr=True, highlight=False, soft_wrap=True)


def say(message: str, *, lines: bool = False) -> None:
    """One line for the person watching, written at once: threads' lines do not mix. What a terminal
    would obey or hide is shown as escapes, and so are line breaks, which may come from data, but
    for a message of several `lines`."""
    shown = visible(message, keep="\n\t" if lines else "\t")
    print(f"{shown}\n", end="", file=sys.stderr, flush=True)


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
    """A table; the first column is text, the others are right-aligned figures."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    heading = Text(visible(title), style="bold")
    shown = Table(title=heading, title_justify="left", box=box.SIMPLE_HEAD)
    for number, column in enumerate(columns):
        shown.add_column(
            Text(visible(column)), justify="right" if number else "left", overflow="fold"
        )
    for row in rows:
        # As text: names from data are no markup.
        shown.add_row(*(Text(visible(cell)) for cell in row))
    stderr_console().print(shown)


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


Advance = Callable[..., None]
"""`advance(amount, note="")`: this much more is done; `note` is shown behind the figures."""


@contextmanager
def progress(
    label: str, total: float, *, unit: str = "", rate: Callable[[float], str] | None = None
) -> Iterator[Advance]:
    """Show work going on: bar, percentage, rate and time left.

    `total` and the amounts are in `unit`s; `rate` formats units per second
    (default: '12.3 unit/s').
    """
    show_rate = rate or (lambda value: f"{value:,.1f} {unit}/s")
    if sys.stderr.isatty():
        with _live_bar(label, total, show_rate) as advance:
            yield advance
    else:
        yield from _plain_lines(label, total, show_rate)


@contextmanager
def _live_bar(label: str, total: float, show_rate: Callable[[float], str]) -> Iterator[Advance]:
    from rich.progress import (
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn(),
        TextColumn("{task.fields[rate]}"), TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
    )  # fmt: skip
    with Progress(*columns, console=stderr_console()) as bar:
        task = bar.add_task(visible(label), total=total, rate="", note="")
        started = time.monotonic()

        def advance(amount: float, note: str = "") -> None:
            done = bar.tasks[0].completed + amount
            elapsed = max(time.monotonic() - started, 1e-9)
            bar.update(task, advance=amount, rate=show_rate(done / elapsed), note=visible(note))

        yield advance


def _plain_lines(label: str, total: float, show_rate: Callable[[float], str]) -> Iterator[Advance]:
    started = last = time.monotonic()
    done = 0.0
    # The first part may have waited for a model to load: the rate behind the time left begins
    # where it ends, as that of a live bar does.
    first: tuple[float, float] | None = None

    def left(now: float) -> str:
        if first is None or now <= first[0] or done <= first[1]:
            return ESTIMATING
        return human_seconds((total - done) * (now - first[0]) / (done - first[1]))

    def advance(amount: float, note: str = "") -> None:
        nonlocal done, last, first
        done += amount
        now = time.monotonic()
        if now - last >= PLAIN_LINE_SECONDS or done >= total:
            last = now
            elapsed = max(now - started, 1e-9)
            tail = time_left(left(now)) if done < total else f"in {human_seconds(elapsed)}"
            comma = "," if done < total else ""
            share = f"{100 * done / total:.0f} %" if total else "done"
            more = f", {note}" if note else ""
            say(f"{label}: {share}, {show_rate(done / elapsed)}{comma} {tail}{more}")
        if first is None and amount:
            first = now, done

    yield advance
