"""Interval plots as inline SVG: one strip per row, the labels beside it in HTML.

A strip is stretched to the width there is; strokes don't scale with it, so that lines and dots
keep their shape at any width, on paper too.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from tuneserve.bench.stats.bootstrap import Estimate

LINE_HEIGHT = 14


@dataclass(frozen=True)
class Scale:
    """A linear axis with round ticks."""

    low: float
    high: float
    ticks: list[float]

    def percent(self, value: float) -> float:
        """Place of `value` from the left, in percent of the width; held within the axis."""
        share = (value - self.low) / (self.high - self.low)
        return round(100 * min(1.0, max(0.0, share)), 3)


@dataclass(frozen=True)
class Mark:
    """An estimate drawn as a dot with whiskers; `style` is its CSS class."""

    estimate: Estimate
    style: str


def scale_over(values: Iterable[float], *, ticks: int = 5) -> Scale:
    """An axis that holds all values and ends at round ticks."""
    known = list(values)
    low, high = min(known), max(known)
    smallest = 1e-6 * max(1.0, abs(low), abs(high))
    if high - low < smallest:
        low, high = low - smallest, high + smallest
    step = _round_step((high - low) / ticks)
    first, last = math.floor(low / step), math.ceil(high / step)
    places = [step * count for count in range(first, last + 1)]
    return Scale(places[0], places[-1], places)


def strip(scale: Scale, marks: Sequence[Mark], label: str, *, zero: float | None = None) -> Markup:
    """One row's SVG: grid, an emphasised line at `zero`, and the marks one below the other."""
    height = LINE_HEIGHT * len(marks) + 6
    parts = [_line("grid", scale.percent(tick), 0, height) for tick in scale.ticks]
    if zero is not None:
        parts.append(_line("zero", scale.percent(zero), 0, height))
    for place, mark in enumerate(marks):
        parts += _mark(scale, mark, LINE_HEIGHT * place + LINE_HEIGHT / 2 + 3)
    opening = Markup(
        '<svg viewBox="0 0 100 {height}" height="{height}" preserveAspectRatio="none" role="img" '
        'aria-label="{label}">'
    ).format(height=height, label=label)
    return opening + Markup("").join(parts) + Markup("</svg>")


@dataclass(frozen=True)
class Line:
    """A line through (x, y) points, with dots or without; `style` is its CSS class."""

    points: Sequence[tuple[float, float]]
    style: str
    dots: bool = False


def lines(
    x: Scale, y: Scale, drawn: Sequence[Line], label: str, *, best: float | None = None
) -> Markup:
    """Lines over a grid; `best` marks a place on the x axis. Values beyond the axes are held."""
    parts = [_line("grid", x.percent(tick), 0, 100) for tick in x.ticks]
    parts += [_level(100 - y.percent(tick)) for tick in y.ticks]
    if best is not None:
        parts.append(_line("best", x.percent(best), 0, 100))
    for line in drawn:
        places = [(x.percent(a), round(100 - y.percent(b), 3)) for a, b in line.points]
        if places:
            path = "L".join(f"{a} {b}" for a, b in places)
            parts.append(Markup('<path class="line {}" d="M{}"/>').format(line.style, path))
        if line.dots:
            dot = Markup('<path class="dot {}" d="M{} {}h.01"/>')
            parts += [dot.format(line.style, a, b) for a, b in places]
    opening = Markup(
        '<svg viewBox="0 0 100 100" preserveAspectRatio="none" role="img" aria-label="{}">'
    ).format(label)
    return opening + Markup("").join(parts) + Markup("</svg>")


def _level(height: float) -> Markup:
    return Markup('<path class="grid" d="M0 {}H100"/>').format(round(height, 3))


def _mark(scale: Scale, mark: Mark, y: float) -> list[Markup]:
    low, high = scale.percent(mark.estimate.low), scale.percent(mark.estimate.high)
    value = scale.percent(mark.estimate.value)
    whisker = Markup('<path class="whisker {}" d="M{} {}H{}"/>').format(mark.style, low, y, high)
    # A line of next to no length with round or square ends is a dot that stretching can't distort.
    dot = Markup('<path class="dot {}" d="M{} {}h.01"/>').format(mark.style, value, y)
    caps = [_line(f"cap {mark.style}", end, y - 3, y + 3) for end in (low, high)]
    return [whisker, *caps, dot]


def _line(style: str, x: float, top: float, bottom: float) -> Markup:
    return Markup('<path class="{}" d="M{} {}V{}"/>').format(style, x, top, bottom)


def _round_step(rough: float) -> float:
    power = 10.0 ** math.floor(math.log10(rough))
    return power * next(factor for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
