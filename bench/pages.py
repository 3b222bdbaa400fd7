"""The report as files: report.json for programs, report.md and report.html for people."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench import plot
from bench.analysis import format_p
from bench.results import (
    AccuracyComparison,
    Contender,
    Pair,
    PerplexityComparison,
    Report,
    TextComparison,
)
from bench.speed import Rate
from bench.statistics import Estimate
from tuneserve.console import human_bytes, human_seconds
from tuneserve.files import atomic_path, write_json, write_jsonl, write_text

SCHEMA = 1
UNSTEADY = 0.1  # share of the mean above which a deviation means a busy machine
SHOWN_FLIPS = 200  # of each kind on the page; answers.jsonl holds all


def write_report(report: Report, directory: Path) -> None:
    """Write report.json, report.md, report.html and answers.jsonl, all or none."""
    with atomic_path(directory) as temporary:
        temporary.mkdir()
        write_json(temporary / "report.json", as_json(report))
        write_text(temporary / "report.md", render(report, "report.md.jinja"))
        write_text(temporary / "report.html", render(report, "report.html.jinja"))
        write_jsonl(temporary / "answers.jsonl", [pair.as_row() for pair in report.pairs])


def as_json(report: Report) -> dict[str, Any]:
    """The report without the answers, which have their own file; first its schema's number."""
    fields = {name: value for name, value in vars(report).items() if name != "pairs"}
    plain = {
        name: asdict(value) if hasattr(value, "__dataclass_fields__") else value
        for name, value in fields.items()
    }
    plain["groups"] = [asdict(group) for group in report.groups]
    plain["others"] = [asdict(other) for other in report.others]
    plain["texts"] = [asdict(text) for text in report.texts]
    return {"schema": SCHEMA, **plain}


def render(report: Report, template: str) -> str:
    """The report through one of bench/templates/; only the HTML one escapes."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("bench"),
        autoescape=jinja2.select_autoescape(["html.jinja"], default=False),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(
        percent=percent,
        interval=interval,
        points=points,
        number=number,
        rate=rate,
        points_interval=points_interval,
        p_value=format_p,
        bytes=human_bytes,
        seconds=human_seconds,
        cell=markdown_cell,
    )
    flips = _flips(report)
    return environment.get_template(template).render(
        report=report,
        rows=_rows(report),
        accuracy_plot=_accuracy_plot(report),
        difference_plot=_difference_plot(report),
        ratio_plot=_ratio_plot([(row.name, row.perplexity) for row in _rows(report)]),
        text_plot=_ratio_plot([(text.name, text) for text in report.texts])
        if report.texts
        else None,
        won=[pair for pair in flips if pair.won],
        lost=[pair for pair in flips if pair.lost],
        headline=headline(report.verdict.sentence),
        busy=any(_is_unsteady(model) for model in (report.base, report.tuned)),
        shown_flips=SHOWN_FLIPS,
    )


Ratios = PerplexityComparison | TextComparison


@dataclass(frozen=True)
class Row:
    """All prompts, or one group: a line of the tables and plots."""

    name: str
    accuracy: AccuracyComparison
    perplexity: PerplexityComparison
    p: float


@dataclass(frozen=True)
class Plot:
    """Rows of (name, SVG, values as text) over one axis of (percent from the left, label)."""

    rows: Sequence[tuple[str, str, str]]
    ticks: list[tuple[float, str]]


def _rows(report: Report) -> list[Row]:
    everything = Row("All prompts", report.accuracy, report.perplexity, report.accuracy.p)
    groups = [
        Row(group.name, group.accuracy, group.perplexity, group.adjusted_p)
        for group in report.groups
    ]
    return [everything, *groups]


def _accuracy_plot(report: Report) -> Plot:
    scale = plot.Scale(0.0, 1.0, [0.0, 0.25, 0.5, 0.75, 1.0])
    rows = []
    for row in _rows(report):
        base, tuned = row.accuracy.base, row.accuracy.tuned
        text = f"{percent(base.value)} → {percent(tuned.value)}"
        label = (
            f"{row.name}: base {percent(base.value)} ({interval(base)}), "
            f"tuned {percent(tuned.value)} ({interval(tuned)})"
        )
        marks = [plot.Mark(base, "base"), plot.Mark(tuned, "tuned")]
        rows.append((row.name, plot.strip(scale, marks, label), text))
    return Plot(rows, [(scale.percent(tick), percent(tick, 0)) for tick in scale.ticks])


def _difference_plot(report: Report) -> Plot:
    shown = [(row.name, row.accuracy.difference) for row in _rows(report)]
    scale = plot.scale_over(
        [0.0, *(end for _, difference in shown for end in (difference.low, difference.high))]
    )
    rows = []
    for name, estimate in shown:
        text = f"{points(estimate.value)} ({points_interval(estimate)})"
        mark = plot.Mark(estimate, "tuned")
        rows.append((name, plot.strip(scale, [mark], f"{name}: {text}", zero=0.0), text))
    ticks = [
        (scale.percent(tick), f"{100 * tick:+.4g}".replace("-", "−") if tick else "0")
        for tick in scale.ticks
    ]
    return Plot(rows, ticks)


def _ratio_plot(shown: Sequence[tuple[str, Ratios]]) -> Plot:
    """Tuned over base perplexity, around 1."""
    ends = [end for _, compared in shown for end in (compared.ratio.low, compared.ratio.high)]
    scale = plot.scale_over([1.0, *ends])
    rows = []
    for name, compared in shown:
        text = f"{number(compared.base.value)} → {number(compared.tuned.value)}"
        strip = plot.strip(scale, [plot.Mark(compared.ratio, "tuned")], f"{name}: {text}", zero=1.0)
        rows.append((name, strip, text))
    return Plot(rows, [(scale.percent(tick), f"{tick:.3g}") for tick in scale.ticks])


def _is_unsteady(model: Contender) -> bool:
    rates = (model.speed.prompt, model.speed.generation)
    return any(measured.deviation > UNSTEADY * measured.mean for measured in rates)


def _flips(report: Report) -> list[Pair]:
    won = [pair for pair in report.pairs if pair.won]
    lost = [pair for pair in report.pairs if pair.lost]
    return [*won[:SHOWN_FLIPS], *lost[:SHOWN_FLIPS]]


def percent(share: float, decimals: int = 1) -> str:
    return f"{100 * share:.{decimals}f} %"


def interval(estimate: Estimate) -> str:
    """A share's interval as '75.2 to 83.0', in percent."""
    return f"{100 * estimate.low:.1f} to {100 * estimate.high:.1f}"


def points(share: float) -> str:
    """A difference of shares in percentage points: '+4.2'."""
    return f"{100 * share:+.1f}".replace("-", "−")


def points_interval(estimate: Estimate) -> str:
    return f"{points(estimate.low)} to {points(estimate.high)}"


def number(value: float) -> str:
    """Four significant digits, with thousands separated."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:#.4g}"


def rate(measured: Rate) -> str:
    """Tokens per second as '78.4 ± 1.8'."""
    decimals = 0 if measured.mean >= 1000 else 1
    return f"{measured.mean:,.{decimals}f} ± {measured.deviation:,.{decimals}f}"


def headline(sentence: str) -> tuple[str, str]:
    """A verdict's claim, before the first colon, and its evidence."""
    claim, _, evidence = sentence.partition(": ")
    return claim, evidence[:1].upper() + evidence[1:]


def markdown_cell(text: str, longest: int = 160) -> str:
    """Text for a cell of a Markdown table: one line, cut, nothing that would break the table."""
    line = " ".join(text.split())
    line = line if len(line) <= longest else line[: longest - 1] + "…"
    for character in "\\`*_{}[]<>|":
        line = line.replace(character, "\\" + character)
    return line
