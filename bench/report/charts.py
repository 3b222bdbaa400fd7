"""The report's plots: which estimates are drawn, over which axis, with which words beside them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from tuneserve.bench.compare.figures import number, points, points_interval
from tuneserve.bench.compare.results import (
    AccuracyComparison,
    PerplexityComparison,
    Report,
    TaskComparison,
    TextComparison,
)
from tuneserve.bench.stats.bootstrap import Estimate
from tuneserve.bench.stats.calibration import Calibration
from tuneserve.charts import Line, Mark, Scale, framed, lines, scale_over, strip
from tuneserve.console import percent

STYLES = ("base", "tuned", "general")


@dataclass(frozen=True)
class ChartRow:
    """All prompts, or one group: a line of the tables and plots."""

    name: str
    accuracy: AccuracyComparison
    p: float


@dataclass(frozen=True)
class Plot:
    """Rows of (name, SVG, values as text) over one axis of (percent from the left, label)."""

    rows: Sequence[tuple[str, str, str]]
    ticks: list[tuple[float, str]]


def rows_of(report: Report) -> list[ChartRow]:
    """All prompts, then each group."""
    groups = [ChartRow(group.name, group.accuracy, group.adjusted_p) for group in report.groups]
    return [ChartRow("All prompts", report.accuracy, report.accuracy.p), *groups]


def rows_of_task(task: TaskComparison) -> list[ChartRow]:
    """All prompts of another task, then each kind of them."""
    kinds = [ChartRow(kind.name, kind.accuracy, kind.adjusted_p) for kind in task.kinds]
    return [ChartRow("All", task.accuracy, task.adjusted_p), *kinds]


def perplexities(report: Report) -> list[tuple[str, PerplexityComparison]]:
    """Of the reference answers: of all prompts, then of each group."""
    return [
        ("All prompts", report.perplexity),
        *((group.name, group.perplexity) for group in report.groups),
    ]


def accuracy_plot(rows: Iterable[ChartRow]) -> Plot:
    scale = Scale(0.0, 1.0, [0.0, 0.25, 0.5, 0.75, 1.0])
    drawn = []
    for row in rows:
        base, tuned = row.accuracy.base, row.accuracy.tuned
        text = f"{percent(base.value)} → {percent(tuned.value)}"
        marks = [_mark(base, "base"), _mark(tuned, "tuned")]
        drawn.append((row.name, strip(scale, marks, f"{row.name}: {text}"), text))
    return Plot(drawn, [(scale.percent(tick), percent(tick, 0)) for tick in scale.ticks])


def difference_plot(rows: Iterable[ChartRow]) -> Plot:
    """Tuned minus base in points, around 0."""
    shown = [(row.name, row.accuracy.difference) for row in rows]
    scale = scale_over([0.0, *_ends(estimate for _, estimate in shown)])
    drawn = []
    for name, estimate in shown:
        text = f"{points(estimate.value)} ({points_interval(estimate)})"
        mark = _mark(estimate, "tuned")
        drawn.append((name, strip(scale, [mark], f"{name}: {text}", zero=0.0), text))
    ticks = [
        (scale.percent(tick), f"{100 * tick:+.4g}".replace("-", "−") if tick else "0")
        for tick in scale.ticks
    ]
    return Plot(drawn, ticks)


def ratio_plot(shown: Sequence[tuple[str, PerplexityComparison | TextComparison]]) -> Plot:
    """Tuned over base perplexity, around 1."""
    scale = scale_over([1.0, *_ends(compared.ratio for _, compared in shown)])
    drawn = []
    for name, compared in shown:
        text = f"{number(compared.base.value)} → {number(compared.tuned.value)}"
        mark = _mark(compared.ratio, "tuned")
        drawn.append((name, strip(scale, [mark], f"{name}: {text}", zero=1.0), text))
    return Plot(drawn, [(scale.percent(tick), f"{tick:.3g}") for tick in scale.ticks])


def text_plot(report: Report) -> Plot:
    return ratio_plot([(text.name, text) for text in report.texts])


def calibration_chart(found: Sequence[Calibration]) -> Markup:
    """How often right over how sure, of each model; on the diagonal a model is as often right as
    it is sure."""
    axis = Scale(0.0, 1.0, [0.0, 0.25, 0.5, 0.75, 1.0], name="sure ")
    drawn = [Line([(0.0, 0.0), (1.0, 1.0)], "best")]
    keys = [("line kept", "as often right as sure")]
    for model, style in zip(found, STYLES, strict=False):
        points = [(part.sure, part.right.value) for part in model.bins]
        spread = [(part.right.low, part.right.high) for part in model.bins]
        drawn.append(Line(points, style, dots=True, spread=spread))
        keys.append((style, f"{model.model}, ECE {percent(model.ece)}"))
    svg = lines(axis, axis, drawn, "how often right over how sure")
    return framed(keys, axis, axis, svg, "probability of the likeliest choice; left: share right")


def _mark(estimate: Estimate, style: str) -> Mark:
    return Mark(estimate.value, estimate.low, estimate.high, style)


def _ends(estimates: Iterable[Estimate]) -> list[float]:
    """The intervals' ends, and the values."""
    return [
        end
        for estimate in estimates
        for end in (estimate.value, estimate.low, estimate.high)
        if end is not None
    ]
