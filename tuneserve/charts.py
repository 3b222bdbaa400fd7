"""Charts as inline SVG for pages that need nothing else: intervals by row, and loss curves.

An SVG is stretched to the width there is, its labels stand beside it in HTML; strokes don't scale
with it, so that lines and dots keep their shape at any width, on paper too. `page_style()` has the
rules that the SVG and the labels are drawn by.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from markupsafe import Markup

LINE_HEIGHT = 14
SMOOTHED_SHARE = 20  # the training loss is averaged over a twentieth of the steps

Curve = Sequence[tuple[int, float]]
"""(optimizer step, value)"""


@dataclass(frozen=True)
class Scale:
    """A linear axis with round ticks; `name` stands before a value that is pointed at."""

    low: float
    high: float
    ticks: list[float]
    name: str = ""

    def percent(self, value: float) -> float:
        """Place of `value` from the left, in percent of the width; clipped to the axis."""
        share = (value - self.low) / (self.high - self.low)
        return round(100 * min(1.0, max(0.0, share)), 3)


@dataclass(frozen=True)
class Mark:
    """A value with its interval, drawn as a dot with whiskers, or without where it has none;
    `style` is its CSS class."""

    value: float
    low: float | None
    high: float | None
    style: str


@dataclass(frozen=True)
class Line:
    """A line through (x, y) points, with dots or without; `style` is its CSS class. A dot shows its
    x and y when pointed at. `spread`: the interval of y at each point."""

    points: Sequence[tuple[float, float]]
    style: str
    dots: bool = False
    spread: Sequence[tuple[float | None, float | None]] = ()


@dataclass(frozen=True)
class LossCurves:
    """How training went: (optimizer step, loss per answer token in nats) of the training batches,
    of the eval split and of general examples, and the step whose weights were kept."""

    train: list[tuple[int, float]]
    eval: list[tuple[int, float]]
    general: list[tuple[int, float]] = field(default_factory=list)
    best_step: int | None = None


def page_style() -> Markup:
    """The CSS of all charts, and the colours that a page with charts is painted in."""
    return Markup(Path(__file__).with_name("charts.css").read_text(encoding="utf-8"))  # noqa: S704


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


def lines(
    x: Scale, y: Scale, drawn: Sequence[Line], label: str, *, best: float | None = None
) -> Markup:
    """Lines over a grid; `best` marks a place on the x axis. Values beyond the axes are clipped."""
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
            parts += [
                _dot(line.style, *place, title=f"{x.name}{step:g}: {value:.4f}")
                for place, (step, value) in zip(places, line.points, strict=True)
            ]
        parts += [
            _line(f"whisker {line.style}", place, 100 - y.percent(high), 100 - y.percent(low))
            for (place, _), (low, high) in zip(places, line.spread, strict=False)
            if low is not None and high is not None
        ]
    opening = Markup(
        '<svg viewBox="0 0 100 100" preserveAspectRatio="none" role="img" aria-label="{}">'
    ).format(label)
    return opening + Markup("").join(parts) + Markup("</svg>")


def loss_chart(curves: LossCurves) -> Markup:
    """The losses over the optimizer steps, from 0 up, with legend and axes. A loss that is not
    finite is left out."""
    train, evaluated, general = (
        [(step, loss) for step, loss in curve if math.isfinite(loss)]
        for curve in (curves.train, curves.eval, curves.general)
    )
    window = max(1, len(train) // SMOOTHED_SHARE)
    smooth = smoothed(train, window)
    steps = scale_over([0.0, *(float(step) for step, _ in (*train, *evaluated, *general))])
    x = replace(steps, name="step ")
    y = scale_over([0.0, *(loss for _, loss in (*smooth, *evaluated, *general))])
    drawn = [
        Line(train, "step"),
        Line(smooth, "base"),
        Line(evaluated, "tuned", dots=True),
        Line(general, "general", dots=True),
    ]
    label = f"loss over {len(train)} steps"
    keys = [("line step", "training, each step")] if window > 1 else []
    keys.append(("line base", f"training, mean of {window} steps" if window > 1 else "training"))
    if evaluated:
        keys.append(("tuned", "eval, not trained on"))
    if general:
        keys.append(("general", "general examples, not trained on"))
    if curves.best_step is not None:
        keys.append(("line kept", f"weights kept (step {curves.best_step})"))
    return framed(keys, x, y, lines(x, y, drawn, label, best=curves.best_step), "optimizer step")


def framed(
    keys: Iterable[tuple[str, str]], x: Scale, y: Scale, svg: Markup, caption: str
) -> Markup:
    """A chart of `lines` with its legend of (CSS class, text) and its axes."""
    return Markup(
        '<div class="legend">{legend}</div>\n'
        '<div class="chart">\n'
        '<div class="y">{y_labels}</div>\n'
        '<div class="area">{svg}</div>\n'
        '<div class="ticks">{x_labels}</div>\n'
        '</div>\n<p class="caption"><small>{caption}</small></p>'
    ).format(
        legend=_each('<span><i class="{}"></i>{}</span>', keys),
        y_labels=_each(
            '<span style="top:{}%">{}</span>',
            [
                (
                    round(100 - y.percent(tick), 3),
                    f"{tick:,.0f}" if abs(tick) >= 1000 else f"{tick:.3g}",
                )
                for tick in y.ticks
            ],
        ),
        svg=svg,
        x_labels=_each(
            '<span style="left:{}%">{}</span>',
            [
                (x.percent(tick), f"{tick:,.0f}" if tick == round(tick) else f"{tick:g}")
                for tick in x.ticks
            ],
        ),
        caption=caption,
    )


def smoothed(curve: Curve, window: int) -> list[tuple[int, float]]:
    """Mean of each value with up to `window` - 1 before it: a step's loss alone is noisy."""
    values = [value for _, value in curve]
    parts = [values[max(0, end - window) : end] for end in range(1, len(values) + 1)]
    return [(step, sum(part) / len(part)) for (step, _), part in zip(curve, parts, strict=True)]


def _each(form: str, rows: Iterable[tuple[object, ...]]) -> Markup:
    return Markup("").join(Markup(form).format(*row) for row in rows)  # noqa: S704


def _level(height: float) -> Markup:
    return Markup('<path class="grid" d="M0 {}H100"/>').format(round(height, 3))


def _mark(scale: Scale, mark: Mark, y: float) -> list[Markup]:
    dot = _dot(mark.style, scale.percent(mark.value), y)
    if mark.low is None or mark.high is None:
        return [dot]
    low, high = scale.percent(mark.low), scale.percent(mark.high)
    whisker = Markup('<path class="whisker {}" d="M{} {}H{}"/>').format(mark.style, low, y, high)
    caps = [_line(f"cap {mark.style}", end, y - 3, y + 3) for end in (low, high)]
    return [whisker, *caps, dot]


def _dot(style: str, x: float, y: float, *, title: str = "") -> Markup:
    # A line of next to no length with round or square ends is a dot that stretching can't distort.
    dot = Markup('<path class="dot {}" d="M{} {}h.01"').format(style, x, y)
    return dot + (Markup("><title>{}</title></path>").format(title) if title else Markup("/>"))


def _line(style: str, x: float, top: float, bottom: float) -> Markup:
    return Markup('<path class="{}" d="M{} {}V{}"/>').format(style, x, top, bottom)


def _round_step(rough: float) -> float:
    power = 10.0 ** math.floor(math.log10(rough))
    return power * next(factor for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
