"""The report as files: report.json for programs, report.md and report.html for people."""

from __future__ import annotations

import base64
import hashlib
import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from markupsafe import Markup

from tuneserve.bench.compare import figures
from tuneserve.bench.compare.pairs import Pair
from tuneserve.bench.compare.report_file import as_json
from tuneserve.bench.compare.results import ContenderSummary, Report
from tuneserve.bench.compare.runs import RunsComparison
from tuneserve.bench.report import charts
from tuneserve.bench.report.endings import endings
from tuneserve.bench.report.gates import Gate, failed_gates
from tuneserve.bench.report.page_data import table_figures, table_texts, tasks_of
from tuneserve.bench.stats.calibration import Bin, Calibration
from tuneserve.bench.tasks.examples import evenly
from tuneserve.charts import loss_chart, page_style
from tuneserve.console import human_bytes, human_seconds
from tuneserve.files import atomic_path, write_json, write_jsonl, write_text
from tuneserve.outputs import write_output

if TYPE_CHECKING:
    from jinja2 import Environment

UNSTEADY = 0.1  # share of the mean above which a deviation means a busy machine
SHOWN_FLIPS = 10  # of each kind and task on paper; the page's table and answers.jsonl hold all
CLIPPED = 600  # characters of a text on paper
REPORT_FILES = ("report.json", "report.md", "report.html", "answers.jsonl")
FOR_PULL_REQUEST, OF_RUNS = "<!-- tuneserve bench -->", "<!-- tuneserve report -->"
"""What the files for others begin with; a viewer of Markdown shows nothing of it."""
SCRIPTS = ("rows", "diff", "downloads", "table", "detail", "filters")


def write_report(report: Report, directory: Path) -> None:
    """Write report.json, report.md, report.html and answers.jsonl, all or none."""
    with atomic_path(directory) as temporary:
        temporary.mkdir()
        write_json(temporary / "report.json", as_json(report))
        write_text(temporary / "report.md", render(report, "report.md.jinja"))
        write_text(temporary / "report.html", render(report, "report.html.jinja"))
        rows = [pair.as_row(name) for name, pairs in tasks_of(report) for pair in pairs]
        write_jsonl(temporary / "answers.jsonl", rows)


def render(report: Report, template: str) -> str:
    """The report through one of bench/report/templates/; only the HTML ones escape."""
    script = _script()
    return (
        _environment()
        .get_template(template)
        .render(
            report=report,
            charts=charts,
            loss_chart=loss_chart,
            chart_style=page_style(),
            rows=charts.rows_of(report),
            endings=endings(report),
            flips=_flips(report),
            busy=any(_is_unsteady(model) for model in (report.base, report.tuned)),
            shown_flips=SHOWN_FLIPS,
            figures=table_figures(report),
            texts=table_texts(report),
            script=script,
            policy=_policy(script),
        )
    )


def _environment() -> Environment:
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
    environment.filters.update(
        bytes=human_bytes, seconds=human_seconds, clipped=_clipped, by_bin=_by_bin, evenly=evenly
    )
    environment.policies["json.dumps_kwargs"] = {"ensure_ascii": False, "separators": (",", ":")}
    return environment


def write_for_pull_request(path: Path, report: Report, gates: Sequence[Gate]) -> None:
    """The verdicts and a table in Markdown, short enough for a comment; needs no answers."""
    template = _environment().get_template("pull_request.md.jinja")
    text = template.render(report=report, failures=failed_gates(report, gates))
    write_output(path, f"{FOR_PULL_REQUEST}\n{text}", FOR_PULL_REQUEST)


def write_runs(path: Path, found: RunsComparison) -> None:
    """Several runs in tables of Markdown."""
    text = _environment().get_template("runs.md.jinja").render(found=found)
    write_output(path, f"{OF_RUNS}\n\n{text}", OF_RUNS)


def _script() -> Markup:
    """The page's program: templates/*.js in one block, nothing of which may leave it."""
    folder = Path(__file__).with_name("templates")
    parts = [(folder / f"{name}.js").read_text(encoding="utf-8") for name in SCRIPTS]
    return Markup('"use strict";\n' + "\n".join(parts))  # noqa: S704


def _policy(script: str) -> str:
    """What the page may do: run this program, be styled by itself, and reach nothing."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; "
        "base-uri 'none'; form-action 'none'"
    )


def _clipped(text: str | None) -> str:
    """A text as it is printed: its begin, and how much was left out."""
    text = text or ""
    left = len(text) - CLIPPED
    return text if left <= 0 else f"{text[:CLIPPED]}… ({left:,} more characters)"


def _by_bin(found: Sequence[Calibration]) -> list[tuple[str, list[Bin | None]]]:
    """Rows of the calibration table: a bin's range, and every model's bin."""
    edges = sorted({(part.low, part.high) for model in found for part in model.bins})
    held = [{part.low: part for part in model.bins} for model in found]
    return [(f"{low:.1f} to {high:.1f}", [bins.get(low) for bins in held]) for low, high in edges]


@dataclass(frozen=True)
class Flips:
    """A task's prompts that one of the models answers better than the other."""

    task: str
    won: list[Pair]
    lost: list[Pair]


def _flips(report: Report) -> list[Flips]:
    return [
        Flips(name, [pair for pair in pairs if pair.won], [pair for pair in pairs if pair.lost])
        for name, pairs in tasks_of(report)
    ]


def _is_unsteady(model: ContenderSummary) -> bool:
    rates = (model.speed.prompt, model.speed.generation)
    return any(measured.deviation > UNSTEADY * measured.mean for measured in rates)
