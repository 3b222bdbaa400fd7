"""What a person sees while training runs: one live panel, or plain lines in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING

from pydantic import Field

from tuneserve.console import (
    ESTIMATING,
    PLAIN_LINE_SECONDS,
    human_bytes,
    human_seconds,
    say,
    stderr_console,
    time_left,
)
from tuneserve.records import Record
from tuneserve.visible import visible

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live

# The rate is that of the last steps; evaluations and saves do not count.
_RATE_STEPS = 20
# Without the first step: there kernels are compiled and caches filled, which takes a minute where a
# step takes a second. With fewer steps behind it nothing is said of the time left.
_ENOUGH_STEPS = 3
# A later step may compile for a shape that is new. One that takes this many times as long as the
# one in the middle is no measure of those to come.
_EXCEPTIONAL = 5.0

_MOST_COLUMNS = 3
_BETWEEN = 3
_BORDER = 4
_WIDTH = 100
_UNKNOWN = "–"
# What they come to have, so that what stands beside them does not move.
_LEAST_WIDTHS = {
    "loss": len("10.0000"), "learning rate": len("1.00e-04"), "speed": len("1,000 tokens/s"),
    "memory": len("1000.0 MiB"), "elapsed": len("59 min 59 s"), "left": len("59 min 59 s"),
}  # fmt: skip


class Snapshot(Record):
    """How far training is at one moment: `epochs` are those that all steps make (0 = not known),
    `losses` of the last evaluation by what was evaluated; `elapsed_seconds` and `seconds_left` are
    those of steps and evaluations. `tokens_per_second` and `seconds_left` are None until there are
    enough steps to say them."""

    step: int
    steps: int
    epochs: float = 0.0
    loss: float | None = None
    learning_rate: float | None = None
    losses: dict[str, float] = Field(default_factory=dict)
    tokens_per_second: float | None = None
    memory_bytes: int = 0
    elapsed_seconds: float = 0.0
    seconds_left: float | None = None

    def figures(self) -> dict[str, str]:
        """What is shown, by name."""
        shown = {"step": f"{self.step:,} of {self.steps:,}"}
        if self.epochs:
            epoch = self.epochs * self.step / self.steps
            shown["epoch"] = f"{epoch:.2f} of {self.epochs:.2f}"
        if self.loss is not None:
            shown["loss"] = f"{self.loss:.4f}"
        shown |= {f"{name} loss": f"{loss:.4f}" for name, loss in self.losses.items()}
        if self.learning_rate is not None:
            shown["learning rate"] = f"{self.learning_rate:.2e}"
        if self.step:
            if self.tokens_per_second is not None:
                shown["speed"] = f"{self.tokens_per_second:,.0f} tokens/s"
            shown["memory"] = human_bytes(self.memory_bytes)
        shown["elapsed"] = human_seconds(self.elapsed_seconds)
        left = self.seconds_left
        shown["left"] = ESTIMATING if left is None else human_seconds(left)
        return shown


@dataclass
class Progress:
    """How far training is. Losses are per answer token in nats, None before the first one."""

    steps: int
    step: int = 0
    epochs: float = 0.0
    """Passes over the training examples that all steps make; 0 = not known."""
    evaluate_every: int = 0
    """Steps between evaluations; 0 = there are none."""
    loss: float | None = None
    learning_rate: float | None = None
    losses: dict[str, float] = field(default_factory=dict)
    """Of the last evaluation, by what was evaluated."""
    memory: int = 0
    """In use, in bytes; of the GPU where there is one."""
    evaluating: str = ""
    """What is being evaluated and how far that is ('eval: 3 of 12'); empty between evaluations."""
    _evaluation_began: float | None = None
    _evaluation_seconds: float = 0.0
    """Of the last evaluation."""
    _evaluated_at: int = 0
    """Its step."""
    _started: float = field(default_factory=time.monotonic)
    _recent: list[tuple[float, int]] = field(default_factory=list)
    """(seconds, tokens) of the last steps. The first one is left out: layers are compiled in it,
    and kernels looked for."""
    _begun: bool = False
    _later: tuple[float, int] = (0.0, 0)
    """(seconds, tokens) of all steps after the first."""

    def stepped(self, step: int, seconds: float, tokens: int) -> None:
        """A step is done that took `seconds` and computed `tokens` in all processes."""
        self.step = step
        if self._begun:
            self._recent = [*self._recent[1 - _RATE_STEPS :], (seconds, tokens)]
            self._later = self._later[0] + seconds, self._later[1] + tokens
        self._begun = True

    def evaluates(self, what: str) -> None:
        """An evaluation is so far ('eval: 3 of 12')."""
        if self._evaluation_began is None:
            self._evaluation_began = time.monotonic()
        self.evaluating = what

    def evaluated(self, losses: Mapping[str, float], seconds: float) -> None:
        """An evaluation is done, which took so long."""
        self.losses |= losses
        self.evaluating, self._evaluation_began = "", None
        self._evaluation_seconds, self._evaluated_at = seconds, self.step

    @property
    def tokens_per_second(self) -> float | None:
        """Of the steps after the first; None until there are enough of them."""
        usual = self._usual()
        seconds = sum(s for s, _ in usual)
        return sum(t for _, t in usual) / seconds if seconds else None

    @property
    def steady_rate(self) -> float:
        """Tokens a second of all steps after the first, which compiles; 0 without any."""
        seconds, tokens = self._later
        return tokens / seconds if seconds else 0.0

    @property
    def seconds_left(self) -> float | None:
        """Of the steps and evaluations to come; None until there are enough steps to say it."""
        steps, usual = self.steps - self.step, self._usual()
        if steps and not usual:
            return None
        each = sum(s for s, _ in usual) / len(usual) if steps else 0.0
        return steps * each + self._evaluations_left()

    def _evaluations_left(self) -> float:
        """Seconds, if each takes as long as the last one did."""
        if not self.evaluate_every:
            return 0.0
        to_come = self.steps // self.evaluate_every - self.step // self.evaluate_every
        due = self.step % self.evaluate_every == 0 and self._evaluated_at < self.step
        found = (to_come + due) * self._evaluation_seconds
        if self._evaluation_began is not None:
            passed = time.monotonic() - self._evaluation_began
            found -= min(self._evaluation_seconds, passed)
        return found

    def _usual(self) -> list[tuple[float, int]]:
        """The last steps without exceptional ones; none until there are enough."""
        if len(self._recent) < _ENOUGH_STEPS:
            return []
        longest = _EXCEPTIONAL * median(s for s, _ in self._recent)
        return [(s, t) for s, t in self._recent if s <= longest]

    def snapshot(self) -> Snapshot:
        return Snapshot(
            step=self.step,
            steps=self.steps,
            epochs=self.epochs,
            loss=self.loss,
            learning_rate=self.learning_rate,
            losses=dict(self.losses),
            tokens_per_second=self.tokens_per_second,
            memory_bytes=self.memory,
            elapsed_seconds=time.monotonic() - self._started,
            seconds_left=self.seconds_left,
        )

    def figures(self) -> dict[str, str]:
        """What is shown, by name."""
        return self.snapshot().figures()


@dataclass
class ProgressDisplay:
    """Shows a Progress whenever it has changed."""

    progress: Progress

    def show(self) -> None:
        raise NotImplementedError


@contextmanager
def progress_display(
    steps: int, title: str, *, epochs: float = 0.0, evaluate_every: int = 0
) -> Iterator[ProgressDisplay]:
    """Show training of `steps` steps, which make `epochs` (0: not known), with an evaluation after
    every so many (0: none): live on a terminal, else a line every few seconds."""
    progress = Progress(steps, epochs=epochs, evaluate_every=evaluate_every)
    if not sys.stderr.isatty():
        yield _Lines(progress)
        return
    from rich.live import Live

    panel = _Panel(progress, title, stderr_console())
    # Drawn after each step, and each second in between: the clock goes on while nothing is done.
    with Live(
        console=panel.console, get_renderable=panel.render, refresh_per_second=1,
        redirect_stdout=False,
    ) as live:  # fmt: skip
        panel.live = live
        yield panel


@dataclass
class _Lines(ProgressDisplay):
    _told: float = field(default_factory=time.monotonic)
    _told_step: int = 0

    def show(self) -> None:
        now, step = time.monotonic(), self.progress.step
        if self.progress.evaluating:
            if now - self._told >= PLAIN_LINE_SECONDS:
                self._told = now
                say(f"evaluating at step {step}: {self.progress.evaluating}")
            return
        early = now - self._told < PLAIN_LINE_SECONDS and step < self.progress.steps
        if early or step == self._told_step:
            return
        self._told, self._told_step = now, step
        figures = self.progress.figures()
        done = figures.pop("step").replace(" of ", "/")
        rest = ", ".join(
            value if name == "speed" else time_left(value) if name == "left" else f"{name} {value}"
            for name, value in figures.items()
        )
        say(f"training: step {done}, {rest}")


@dataclass
class _Panel(ProgressDisplay):
    """Figures keep their places: no column gets narrower and no line goes. What is evaluated stands
    in the lower border, so that it takes no line of its own."""

    title: str
    console: Console
    live: Live | None = None
    _widest: dict[str, int] = field(default_factory=dict)
    """Of each figure's value so far, in characters."""
    _columns: int = _MOST_COLUMNS

    def show(self) -> None:
        if self.live is not None:
            self.live.refresh()

    def render(self) -> RenderableType:
        from rich import box
        from rich.console import Group
        from rich.panel import Panel
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        width = min(self.console.width, _WIDTH)
        figures = self._in_their_places()
        all_steps = f"{self.progress.steps:,}"
        known = {"step": len(f"{all_steps} of {all_steps}"), **_LEAST_WIDTHS}
        for name, value in figures.items():
            least = known.get(name, len(value))
            self._widest[name] = max(self._widest.get(name, least), len(value))
        padded = [(name, value.ljust(self._widest[name])) for name, value in figures.items()]
        self._columns = min(self._columns, _columns(padded, width - _BORDER))
        grid = Table.grid(padding=(0, _BETWEEN), expand=True)
        for _ in range(self._columns):
            grid.add_column(justify="right", style="dim", no_wrap=True)
            grid.add_column(no_wrap=True)
        for start in range(0, len(padded), self._columns):
            row = padded[start : start + self._columns]
            grid.add_row(*(Text(cell) for pair in row for cell in pair))
        share = self.progress.step / max(self.progress.steps, 1)
        bar = Table.grid(padding=(0, 1), expand=True)
        bar.add_column(ratio=1)
        bar.add_column(justify="right", no_wrap=True)
        bar.add_row(
            ProgressBar(total=self.progress.steps, completed=self.progress.step), f"{share:4.0%}"
        )
        at_work = visible(self.progress.evaluating)
        return Panel(
            Group(bar, grid), title=Text(visible(self.title)), title_align="left",
            subtitle=Text(f"evaluating {at_work}") if at_work else None, subtitle_align="left",
            box=box.ROUNDED, width=width,
        )  # fmt: skip

    def _in_their_places(self) -> dict[str, str]:
        """The figures, and a dash for each that is not known yet."""
        known = {name: visible(value) for name, value in self.progress.figures().items()}
        evaluated = [name for name in known if name.endswith(" loss")]
        first = [name for name in ("step", "epoch") if name in known]
        names = [*first, "loss", *evaluated, "learning rate", "speed", "memory", "elapsed", "left"]
        return {name: known.get(name, _UNKNOWN) for name in names}


def _columns(figures: Sequence[tuple[str, str]], width: int) -> int:
    """How many figures stand beside each other in so many characters, none of them cut."""
    for columns in range(_MOST_COLUMNS, 1, -1):
        taken = _BETWEEN * (2 * columns - 1)
        for place in range(columns):
            cells = figures[place::columns]
            taken += max((len(name) for name, _ in cells), default=0)
            taken += max((len(value) for _, value in cells), default=0)
        if taken <= width:
            return columns
    return 1
