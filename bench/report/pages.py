"""The report as files: report.json for programs, report.md and report.html for people."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from pathlib import Path

from tuneserve.bench.compare import figures
from tuneserve.bench.compare.report_file import as_json
from tuneserve.bench.compare.results import HELD_OUT, ContenderSummary, Pair, Report
from tuneserve.bench.report import charts
from tuneserve.charts import loss_chart, page_style
from tuneserve.console import human_bytes, human_seconds
from tuneserve.files import atomic_path, write_json, write_jsonl, write_text

UNSTEADY = 0.1  # share of the mean above which a deviation means a busy machine
SHOWN_FLIPS = 200  # of each kind and task on the page; answers.jsonl holds all


def write_report(report: Report, directory: Path) -> None:
    """Write report.json, report.md, report.html and answers.jsonl, all or none."""
    with atomic_path(directory) as temporary:
        temporary.mkdir()
        write_json(temporary / "report.json", as_json(report))
        write_text(temporary / "report.md", render(report, "report.md.jinja"))
        write_text(temporary / "report.html", render(report, "report.html.jinja"))
        rows = [pair.as_row(name) for name, pairs in _answered(report) for pair in pairs]
        write_jsonl(temporary / "answers.jsonl", rows)


def _answered(report: Report) -> list[tuple[str, list[Pair]]]:
    """Every task with its answers, the run's own first."""
    return [(HELD_OUT, report.pairs), *((task.name, task.pairs) for task in report.tasks)]


def render(report: Report, template: str) -> str:
    """The report through one of bench/report/templates/; only the HTML one escapes."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("tuneserve.bench.report"),
        autoescape=jinja2.select_autoescape(["html.jinja"], default=False),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(inspect.getmembers(figures, inspect.isfunction))
    environment.filters.update(bytes=human_bytes, seconds=human_seconds)
    return environment.get_template(template).render(
        report=report,
        charts=charts,
        loss_chart=loss_chart,
        chart_style=page_style(),
        rows=charts.rows_of(report),
        flips=_flips(report),
        busy=any(_is_unsteady(model) for model in (report.base, report.tuned)),
        shown_flips=SHOWN_FLIPS,
    )


@dataclass(frozen=True)
class Flips:
    """A task's prompts that one of the models answers better than the other."""

    task: str
    won: list[Pair]
    lost: list[Pair]


def _flips(report: Report) -> list[Flips]:
    return [
        Flips(name, [pair for pair in pairs if pair.won], [pair for pair in pairs if pair.lost])
        for name, pairs in _answered(report)
    ]


def _is_unsteady(model: ContenderSummary) -> bool:
    rates = (model.speed.prompt, model.speed.generation)
    return any(measured.deviation > UNSTEADY * measured.mean for measured in rates)
